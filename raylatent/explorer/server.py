"""The server of an explorer: its page, and what a page on a disk cannot do.

Members of any polygon, tiles at their own size, and the slides themselves. Clients give
whole numbers and polygons, never paths; see `gate` for who may ask.
"""

import asyncio
import logging
import socket
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
from functools import cache, cached_property, lru_cache, partial
from pathlib import Path
from secrets import token_urlsafe
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import uvicorn
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response

from raylatent import schema
from raylatent.config import ServeConfig
from raylatent.errors import ConfigError, MapError, RaylatentError, StorageError
from raylatent.explorer import gate, polygon
from raylatent.explorer.deeper import DeeperLevels
from raylatent.explorer.folder import CELLS
from raylatent.explorer.members import Box, Where, found_in_time, members, of_cells
from raylatent.explorer.named_regions import region_labels
from raylatent.explorer.pictures import OWN_QUALITY, block_name, encoded
from raylatent.explorer.pseudonyms import read_pseudonyms
from raylatent.explorer.pyramid import DEEPEST, SIDE, Square
from raylatent.explorer.tile_squares import slide_files_of
from raylatent.run import EXPLORER, MAPS, RunDirectory
from raylatent.run.layout import EXPLORER_JSON, PSEUDONYMS
from raylatent.seal import DIGEST, parse_json
from raylatent.source.kinds import kind_of
from raylatent.source.slides import local_slide
from raylatent.source.wsi.deep_zoom import OVERLAP_PX, TILE_PX, DeepZoom
from raylatent.storage import absolute
from raylatent.stored.map_points import StoredPoints, iter_points
from raylatent.stored.mosaic_inputs import source_places
from raylatent.tiles.fetch import stored_tiles

logger = logging.getLogger(__name__)

MOST_ROWS = 1_000_000
"""Of an answer; of more members only the numbers are told."""
MOST_POINTS = 10_000
"""Of a polygon that is asked for."""

_ROW = (schema.TILE_INDEX, schema.LOC_X, schema.LOC_Y)  # and the slide before it
_MOST_S = 60.0  # that members are looked for, and anybody waits for an answer
_LATE = f"{_MOST_S:g} s did not suffice: ask again, or use `raylatent select`"
_WAIT_S = 20.0  # for a body, and for others whose work takes long
_AT_ONCE = {"members": 1, "block": 1}
_OTHERS_AT_ONCE = 4
_MOST_SLIDES = 8  # held open
_JS = "text/javascript"
_TYPES = {  # not the system's, which may take a script for something else
    ".html": "text/html",
    ".js": _JS,
    ".css": "text/css",
    ".json": "application/json",
    ".jpg": "image/jpeg",
}
_UNREAD = "it cannot be read: the terminal says why"
_SERVER_JS = '"use strict";\nwindow.raylatentServer = {};\n'
_FOLDERS = {"data", "mosaic_files", "slide", "slides", "tile", "tiles"}
"""Of a page: a map of such a name is not shown beside another one."""

Found = Response | bytes | None
"""An answer, or a JPEG, or nothing."""


class Explorer:
    """What is served of a map, and of the run's other maps whose pages are beside it.

    Threads may ask at once, but for blocks. The page calls another map `../<map>/`,
    which from `/` is `/<map>/`.

    Args:
        config: What the verb takes.

    Raises:
        MapError: There is no such map, no page of it, or one of another map.
    """

    def __init__(self, config: ServeConfig) -> None:
        self.run = RunDirectory.open(config.run)
        self.stored = StoredPoints(f"{self.run.uri}/{MAPS}/{config.map}", self.run)
        self._config = config
        folder = absolute(config.explorer or f"{self.run.uri}/{EXPLORER}/{config.map}")
        self.root = Path(folder).resolve()
        self._stamp = self._stamp_now()
        about, self._square = self._told()
        self._pseudonyms: dict[str, str] = {}
        if about.get("pseudonyms"):
            self._pseudonyms = read_pseudonyms(self.run.store)
            if lost := len(set(self.stored.slides) - set(self._pseudonyms)):
                message = (
                    f"{self.run.uri}/{PSEUDONYMS} lacks {lost} slides of the page "
                    f"{self.root}: run `raylatent explore --pseudonymise` again"
                )
                raise MapError(message)
        self._boxes: dict[str, Box] = {}
        self._deeper = DeeperLevels(
            *(self.stored, self.root / CELLS, about, self._square),
            *(self.shown, self._boxes),
        )
        open_slide = lru_cache(maxsize=_MOST_SLIDES)
        self._zooms = open_slide(lambda uri: DeepZoom(local_slide(uri)))
        self._rows = lru_cache(maxsize=4)(self._rows_of)
        pages = () if config.explorer else self.root.parent.glob(f"*/{EXPLORER_JSON}")
        self._beside = {page.parent.name for page in pages} - _FOLDERS
        self._other = cache(lambda name: Explorer(replace(config, map=name)))

    def _told(self) -> tuple[dict[str, Any], Square]:
        """What explorer.json says, and the square around the map's points."""
        told = self.root / EXPLORER_JSON
        about = parse_json(told.read_bytes()) if told.is_file() else None
        if about is None:
            folder = f"{EXPLORER}/{self._config.map} of the run"
            message = (
                f"{self._config.explorer or folder} holds no explorer: run `raylatent "
                f"explore {self.run.uri}` first (of a run at a URI with --out DIR), or "
                "say where it is, --explorer DIR"
            )
            raise MapError(message)
        for one in about.get("maps", []):
            if one.get(DIGEST) == self.stored.info[DIGEST]:
                (x, y), side = one["lower"], one["side"]
                return about, Square(x=x, y=y, side=side)
        message = (
            f"{self.root} is of another map than {self.stored.store.uri}: run `raylatent "
            f"explore {self.run.uri}` again"
        )
        raise MapError(message)

    def _stamp_now(self) -> tuple[int, int] | None:
        """What tells explorer.json from another one; None where there is none."""
        told = self.root / EXPLORER_JSON
        stat = told.stat() if told.is_file() else None
        return None if stat is None else (stat.st_mtime_ns, stat.st_ino)

    def shown(self, slide: str) -> str:
        """What the page calls a slide."""
        return self._pseudonyms[slide] if self._pseudonyms else slide

    @cached_property
    def slides(self) -> list[str]:
        """The slides in the order of the page's numbers: by the names that it shows."""
        return sorted(self.stored.slides, key=self.shown)

    @cached_property
    def _located(self) -> dict[int, Any]:
        roots = [self._config.source_root] if self._config.source_root else None
        return source_places(self.run, roots, self.stored.slides)

    @cached_property
    def _slide_files(self) -> dict[str, str]:
        """Where the slides themselves are, of those that are known."""
        found = slide_files_of(self.stored.slides, self._config.slides)
        for one in self._located.values():
            if kind_of(one.source).has_grid:
                found[one.source.slide] = one.uri
        return found

    def find(self, path: str) -> tuple[str, gate.Route | None]:
        """The name of another map, and what a decoded path asks for of it.

        A block that was written is a file: nobody waits for what is drawn to have it.
        """
        name, _, rest = path.removeprefix("/").partition("/")
        name, path = (name, f"/{rest}") if rest and name in self._beside else ("", path)
        route = gate.route_of(path)
        if route is not None and route[0] == "block":
            written = block_name(*route[1])
            if (self.root.parent / (name or self.root.name) / written).is_file():
                return name, ("file", (written,))
        return name, route

    def answer(self, path: str, body: bytes = b"") -> Response:
        """What a decoded path asks for; never raises what is raylatent's."""
        name, route = self.find(path)
        if route is None:
            return _absent()
        kind, values = route
        try:
            explorer = self._other(name) if name else self
            return explorer._own(kind, (body,) if kind == "members" else values)
        except TimeoutError:
            return gate.said(503, _LATE)
        except RaylatentError as error:
            logger.warning("not shown: %s", error)
            return gate.said(500, _UNREAD)

    def _own(self, kind: str, values: Iterable[Any]) -> Response:
        if self._stamp_now() != self._stamp:
            return gate.said(409, "the page was written anew: start serve again")
        found: Found = getattr(self, f"_{kind}")(*values)
        if found is None:
            return _absent()
        if isinstance(found, bytes):
            return Response(found, media_type=_TYPES[".jpg"])
        return found

    def _file(self, name: str) -> Found:
        path = self.root / name
        if path.resolve() != path or not path.is_file():  # also where it is a link
            return None
        media_type = _TYPES.get(path.suffix, "application/octet-stream")
        return FileResponse(path, media_type=media_type)

    def _server(self) -> Found:
        return Response(_SERVER_JS, media_type=_JS)

    def _regions(self) -> Found:
        found = region_labels(self.stored.store)
        return JSONResponse([] if found is None else polygon.listed(found.regions))

    def _members(self, body: bytes) -> Found:
        try:
            where, box = self._where(body)
        except MapError as error:
            return gate.said(400, str(error))
        n, slides = 0, set[str]()
        rows: list[list[Any]] | None = []
        found = members(self.stored, where, within=box, boxes=self._boxes)
        for table in found_in_time(found, _MOST_S):
            n += table.num_rows
            slide = self.shown(table[schema.SLIDE][0].as_py())
            slides.add(slide)
            rows = None if rows is None or n > MOST_ROWS else rows
            if rows is not None:
                columns = (table[name].to_pylist() for name in _ROW)
                rows += [[slide, *row] for row in zip(*columns, strict=True)]
        if rows is not None:
            rows.sort(key=lambda row: row[:2])  # places may be unknown
        return JSONResponse({"n": n, "slides": len(slides), "rows": rows})

    def _where(self, body: bytes) -> tuple[Where, Box]:
        """What a polygon or the cell of a level holds; MapError if it is neither."""
        values, digest = parse_json(body) or {}, self.stored.info[DIGEST]
        if "cell" in values:
            cell = values["cell"]
            whole = isinstance(cell, list) and [type(v) for v in cell] == [int] * 3
            known = whole and min(cell) >= 0 and cell[0] <= DEEPEST
            if not known or max(cell) >> DEEPEST >= SIDE or values.get("map") != digest:
                message = "a cell is [level, row, column] of this map: load it again"
                raise MapError(message)
            return of_cells(self._square.grid(cell[0]), *cell[1:])
        sent = polygon.parse_polygons(body, "what was sent")
        n_points = sum(len(ring) for one in sent for ring in one.rings)
        if len(sent) != 1 or n_points > MOST_POINTS:
            message = (
                f"send one polygon of at most {MOST_POINTS:,} points, or use "
                "`raylatent select`"
            )
            raise MapError(message)
        polygon.check_map(sent, digest, "the polygon")
        return partial(polygon.region_of, sent), sent[0].box

    def _block(self, dzi: int, col: int, row: int) -> Found:
        return self._deeper.jpeg(dzi, col, row, self._located)

    def _tile(self, slide: int, tile: int) -> Found:
        if slide >= len(self.slides):
            return None
        of_slide = self._rows(self.slides[slide])
        rows = of_slide.filter(pc.field(schema.TILE_INDEX) == tile).to_pylist()
        located = self._located.get(rows[0][schema.SOURCE]) if rows else None
        if located is None:
            return None
        place, side = located.place(rows[0]), located.source.tile_px or 0
        [(_, found)] = stored_tiles([place], side, n_threads=1, own_size=True)
        if isinstance(found, str):
            raise StorageError(found)
        return encoded(np.asarray(found), OWN_QUALITY)

    def _rows_of(self, slide: str) -> pa.Table:
        parts = [part for part in self.stored.part_names if part[0] == slide]
        [table] = iter_points(self.stored.same(), parts, 1 << 62)
        return table

    def _slide(self, slide: int) -> Found:
        opened = self._opened(slide)
        if opened is None:
            return None
        width, height = opened.dimensions
        told = {"width": width, "height": height, "levels": opened.levels}
        return JSONResponse({**told, "tile": TILE_PX, "overlap": OVERLAP_PX})

    def _zoom(self, slide: int, level: int, col: int, row: int) -> Found:
        opened = self._opened(slide)
        if opened is None:
            return None
        try:
            return opened.jpeg(level, col, row)
        except StorageError:
            self._zooms.cache_clear()  # after an error OpenSlide refuses all reads
            raise

    def _opened(self, slide: int) -> DeepZoom | None:
        """A slide by its number, None where there is none or its file is not known."""
        known = slide < len(self.slides)
        uri = self._slide_files.get(self.slides[slide]) if known else None
        return None if uri is None else self._zooms(uri)


def _absent() -> Response:
    return gate.said(404, "there is no such thing here")


def application(explorer: Explorer, rules: gate.Gate) -> Callable[..., Awaitable[None]]:
    """The server's ASGI application, for HTTP alone."""
    # Who waits for others of a kind takes no thread from other kinds.
    limits: defaultdict[str, asyncio.Semaphore] = defaultdict(
        lambda: asyncio.Semaphore(_OTHERS_AT_ONCE),
        {kind: asyncio.Semaphore(n) for kind, n in _AT_ONCE.items()},
    )

    async def answer(request: Request) -> Response:
        if (refused := rules.refuses(request)) is not None:
            return refused
        path, body = request.scope["path"], b""
        if request.method == "POST":
            async with asyncio.timeout(_WAIT_S):
                async for chunk in request.stream():
                    body += chunk
                    if len(body) > polygon.MAX_BYTES:
                        return gate.said(413, "the polygon is too large")
        _, route = await run_in_threadpool(explorer.find, path)
        limit = limits[route[0] if route else ""]
        try:
            async with asyncio.timeout(_WAIT_S):
                await limit.acquire()
        except TimeoutError:
            return gate.said(503, "busy: ask again")
        work = asyncio.ensure_future(run_in_threadpool(explorer.answer, path, body))
        work.add_done_callback(lambda _: limit.release())  # a thread cannot be stopped
        done, _ = await asyncio.wait({work}, timeout=_MOST_S)
        return work.result() if done else gate.said(503, _LATE)

    async def app(scope: Any, receive: Any, send: Any) -> None:  # noqa: ANN401
        try:
            found = await answer(Request(scope, receive))
        except (TimeoutError, ClientDisconnect):
            found = Response(status_code=408)
        except Exception:  # uvicorn's own answer would lack HEADERS; the log has all
            logger.exception("%s cannot be answered", scope["path"])
            found = gate.said(500, _UNREAD)
        found.headers.update(gate.HEADERS)
        await found(scope, receive, send)

    return app


def serve(config: ServeConfig, say: Callable[[str], None]) -> None:
    """Serve the explorer of a run until the process is told to stop.

    Args:
        config: What the verb takes.
        say: Is told the address, with the token.

    Raises:
        ConfigError: The address cannot be listened on.
        MapError: As of `Explorer`.
    """
    hosts = gate.hosts_of(config.host, config.allow_host)
    explorer = Explorer(config)
    listening = _listen(config.host, config.port)
    port = listening.getsockname()[1]
    token = token_urlsafe(16)  # 128 bits
    rules = gate.Gate(token=token, hosts=hosts, cookie=f"raylatent_{port}")
    if config.host not in {"127.0.0.1", "::1", "localhost"}:
        logger.warning(
            "%s can be reached by others, and without TLS the token and all that is "
            "shown travel readable: an SSH tunnel to 127.0.0.1 does not let them",
            config.host,
        )
    say(f"http://{gate.name_of(config.host, config.allow_host)}:{port}/?token={token}")
    settings = uvicorn.Config(
        application(explorer, rules),
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        lifespan="off",
        ws="none",
        limit_concurrency=64,
        timeout_graceful_shutdown=3,
    )
    uvicorn.Server(settings).run(sockets=[listening])


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        message = f"cannot listen on {host}, port {port}: {error.strerror or error}"
        raise ConfigError(message) from error
