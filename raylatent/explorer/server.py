"""The server of an explorer: its page, and what a page on a disk cannot do.

Members of any polygon, tiles at their own size, and the slides themselves. Clients give
whole numbers and polygons, never paths; see `gate` for who may ask.
"""

import asyncio
import json
import logging
import socket
import threading
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import replace
from functools import cache, cached_property, lru_cache, partial
from pathlib import Path
from secrets import token_urlsafe
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raylatent import schema
from raylatent.config import ServeConfig
from raylatent.errors import ConfigError, MapError, RaylatentError, StorageError
from raylatent.explorer import gate
from raylatent.explorer.deeper import DeeperLevels
from raylatent.explorer.folder import CELLS
from raylatent.explorer.gate import Answer, Asked, Gate, Route
from raylatent.explorer.members import Where, found_in_time, members
from raylatent.explorer.named_regions import region_labels
from raylatent.explorer.pictures import OWN_QUALITY, block_name, encoded
from raylatent.explorer.polygon import (
    MAX_BYTES,
    check_map,
    listed,
    parse_polygons,
    region_of,
)
from raylatent.explorer.pseudonyms import read_pseudonyms
from raylatent.explorer.pyramid import DEEPEST, Square
from raylatent.explorer.tile_squares import slide_files_of
from raylatent.montage.grid import SquareGrid
from raylatent.parts import read_part
from raylatent.run import EXPLORER, MAPS, RunDirectory
from raylatent.run.layout import EXPLORER_JSON, PSEUDONYMS
from raylatent.seal import DIGEST, parse_json
from raylatent.source.kinds import kind_of
from raylatent.source.slides import local_slide
from raylatent.source.wsi.deep_zoom import OVERLAP_PX, TILE_PX, DeepZoom
from raylatent.storage import absolute
from raylatent.stored.map_points import StoredPoints
from raylatent.stored.mosaic_inputs import source_places
from raylatent.tiles.fetch import stored_tiles

logger = logging.getLogger(__name__)

MOST_ROWS = 1_000_000
"""Of an answer; of more members only the numbers are told."""
MOST_POINTS = 10_000
"""Of a polygon that is asked for."""

_MOST_S = 60.0  # that members are looked for
_BODY_S = 20.0
_WAIT_S = 2.0  # for members that others look for
_RENDERS, _QUERIES = 4, 1  # at a time
_MOST_SLIDES = 8  # held open
_JPEG = "image/jpeg"
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".json": "application/json",
    ".jpg": _JPEG,
    ".dzi": "application/xml",
    ".parquet": "application/vnd.apache.parquet",
}
_DRAWN = frozenset({"block", "tile", "zoom"})  # what gives a JPEG, or nothing
_SERVER_JS = b'"use strict";\nwindow.raylatentServer = {};\n'
_FOLDERS = {"data", "mosaic_files", "slide", "slides", "tile", "tiles"}
"""Of a page: a map of such a name is not shown beside another one."""
_ABSENT = Answer(status=404, body=b"there is no such thing here\n")
_REPLACED = Answer(
    status=409, body=b"the page was written anew meanwhile: start serve again\n"
)
_BUSY = Answer(status=503, body=b"busy: ask again\n", headers={"Retry-After": "1"})


class Explorer:
    """What is served of a run; threads may ask at once.

    Args:
        config: What the verb takes.

    Raises:
        MapError: There is no such map, no page of it, or one of another map.
    """

    def __init__(self, config: ServeConfig) -> None:
        """See the class."""
        self.run = RunDirectory.open(config.run)
        self.stored = StoredPoints(f"{self.run.uri}/{MAPS}/{config.map}", self.run)
        self._config = config
        folder = absolute(config.explorer or f"{self.run.uri}/{EXPLORER}/{config.map}")
        self.root = Path(folder).resolve()
        self._stamp = _stamp(self.root)
        about, self._square = self._told()
        self._pseudonyms = self._names_shown(about)
        cells = self.root / CELLS
        self._deeper = DeeperLevels(self.stored, cells, about, self._square, self.shown)
        self._renders = threading.BoundedSemaphore(_RENDERS)
        self._queries = threading.BoundedSemaphore(_QUERIES)
        open_slide = lru_cache(maxsize=_MOST_SLIDES)
        self._zooms = open_slide(lambda uri: DeepZoom(local_slide(uri)))
        self._rows = lru_cache(maxsize=4)(self._rows_of)

    def _told(self) -> tuple[dict[str, Any], Square]:
        """What explorer.json says, and the square around the map's points."""
        folder = self._config.explorer or f"{EXPLORER}/{self._config.map} of the run"
        told = self.root / EXPLORER_JSON
        about = parse_json(told.read_bytes()) if told.is_file() else None
        if about is None:
            message = (
                f"{folder} holds no explorer: run `raylatent explore {self.run.uri}` "
                "first (of a run at a URI with --out DIR), or say where it is, "
                "--explorer DIR"
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

    @cached_property
    def slides(self) -> list[str]:
        """The slides in the order of the page's numbers: by the names that it shows."""
        return sorted(self.stored.slides, key=self.shown)

    def _names_shown(self, about: Mapping[str, Any]) -> dict[str, str]:
        """What the page calls slides, where it does not call them by their names."""
        if not about.get("pseudonyms"):
            return {}
        table = read_pseudonyms(self.run.store)
        if lost := len(set(self.stored.slides) - set(table)):
            message = (
                f"{self.run.uri}/{PSEUDONYMS} lacks {lost} slides of the page {self.root}: "
                "run `raylatent explore --pseudonymise` again"
            )
            raise MapError(message)
        return table

    def shown(self, slide: str) -> str:
        """What the page calls a slide."""
        return self._pseudonyms[slide] if self._pseudonyms else slide

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

    def answer(self, route: Route | None, body: bytes) -> Answer:
        """What a path asks for.

        Raises:
            RaylatentError: It cannot be read.
        """
        if route is None:
            return _ABSENT
        if _stamp(self.root) != self._stamp:
            return _REPLACED
        if route.kind == "file":
            return self._file(route.file)
        if route.kind == "block":
            written = self._file(block_name(*route.numbers))
            if written.file is not None:
                return written
        method = getattr(self, f"_{route.kind}")
        if route.kind in _DRAWN:
            return self._rendered(partial(method, *route.numbers))
        found: Answer = method(*route.numbers, body)
        return found

    def _file(self, name: str) -> Answer:
        path = self.root / name
        suffix = path.suffix
        if path.resolve() != path or not path.is_file():  # also where it is a link
            return _ABSENT
        return Answer(status=200, media_type=_TYPES[suffix], file=str(path))

    def _server(self, _: bytes) -> Answer:
        return Answer(status=200, body=_SERVER_JS, media_type=_TYPES[".js"])

    def _regions(self, _: bytes) -> Answer:
        found = region_labels(self.stored.store)
        return _as_json([] if found is None else listed(found.regions))

    def _members(self, body: bytes) -> Answer:
        try:
            where = self._where(body)
        except MapError as error:
            return Answer(status=400, body=f"{error}\n".encode())
        if not self._queries.acquire(timeout=_WAIT_S):
            return _BUSY
        try:
            return self._counted(where)
        except TimeoutError:
            text = f"{_MOST_S:g} s did not suffice: use `raylatent select`\n"
            return Answer(status=503, body=text.encode())
        finally:
            self._queries.release()

    def _where(self, body: bytes) -> Where:
        """What a polygon or the cell of a level holds; MapError if it is neither."""
        values = parse_json(body) or {}
        if "cell" in values:
            cell = values["cell"]
            whole = isinstance(cell, list) and [type(v) for v in cell] == [int] * 3
            if not whole or not 0 <= cell[0] <= DEEPEST:
                message = "a cell is [level, row, column]"
                raise MapError(message)
            if values.get("map") != self.stored.info[DIGEST]:
                message = "the cell is of another map: load the page again"
                raise MapError(message)
            return partial(_of_cell, self._square.grid(cell[0]), *cell[1:])
        polygons = parse_polygons(body, "what was sent")
        if sum(len(ring) for one in polygons for ring in one.rings) > MOST_POINTS:
            message = f"of more than {MOST_POINTS:,} points: use `raylatent select`"
            raise MapError(message)
        check_map(polygons, self.stored.info[DIGEST], "the polygon")
        return partial(region_of, polygons)

    def _counted(self, where: Where) -> Answer:
        n, slides = 0, set[str]()
        rows: list[tuple[str, int]] | None = []
        for table in found_in_time(members(self.stored, where), _MOST_S):
            n += table.num_rows
            slide = self.shown(table[schema.SLIDE][0].as_py())
            slides.add(slide)
            rows = None if rows is None or n > MOST_ROWS else rows
            if rows is not None:
                rows += [(slide, tile) for tile in table[schema.TILE_INDEX].to_pylist()]
        found = {"n": n, "slides": len(slides), "rows": rows and sorted(rows)}
        return _as_json(found)

    def _rendered(self, render: Callable[[], bytes | None]) -> Answer:
        if not self._renders.acquire(timeout=_BODY_S):
            return _BUSY
        try:
            data = render()
        except TimeoutError:
            return _BUSY
        finally:
            self._renders.release()
        if data is None:
            return _ABSENT
        return Answer(status=200, body=data, media_type=_JPEG)

    def _block(self, dzi: int, col: int, row: int) -> bytes | None:
        return self._deeper.jpeg(dzi, col, row, self._located)

    def _tile(self, slide: int, tile: int) -> bytes | None:
        if slide >= len(self.slides):
            return None
        rows = self._rows(self.slides[slide])
        indices = rows[schema.TILE_INDEX].to_numpy()
        at = int(np.searchsorted(indices, tile))
        if at == len(indices) or indices[at] != tile:
            return None
        row = rows.slice(at, 1).to_pylist()[0]
        located = self._located.get(row[schema.SOURCE])
        if located is None:
            return None
        place, side = located.place(row), located.source.tile_px or 0
        [(_, found)] = stored_tiles([place], side, n_threads=1, own_size=True)
        if isinstance(found, str):
            raise StorageError(found)
        return encoded(np.asarray(found), OWN_QUALITY)

    def _rows_of(self, slide: str) -> pa.Table:
        store, columns = self.stored.same(), schema.REFERENCE.names
        parts = [
            read_part(store, name, columns)
            for own, name in self.stored.part_names
            if own == slide
        ]
        whole = pa.concat_tables([part.replace_schema_metadata() for part in parts])
        return whole.sort_by(schema.TILE_INDEX)

    def _slide(self, slide: int, _: bytes) -> Answer:
        opened = self._opened(slide)
        if opened is None:
            return _ABSENT
        width, height = opened.dimensions
        told = {"width": width, "height": height, "levels": opened.levels}
        told |= {"tile": TILE_PX, "overlap": OVERLAP_PX}
        return _as_json(told)

    def _zoom(self, slide: int, level: int, col: int, row: int) -> bytes | None:
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


class Explorers:
    """The explorer that a server shows, and those of the run's other maps beside it.

    The page calls another one `../<map>/`, which from `/` is `/<map>/`.

    Args:
        config: What the verb takes.

    Raises:
        MapError: As of `Explorer`.
    """

    def __init__(self, config: ServeConfig) -> None:
        """See the class."""
        self._first = Explorer(config)
        beside: Iterable[Path] = (
            [] if config.explorer else self._first.root.parent.iterdir()
        )
        pages = {one.name for one in beside if (one / EXPLORER_JSON).is_file()}
        self._names = pages - _FOLDERS
        self._others = cache(lambda name: Explorer(replace(config, map=name)))

    def answer(self, path: str, body: bytes) -> Answer:
        """What a decoded path asks for; never raises what is raylatent's."""
        first, _, rest = path.removeprefix("/").partition("/")
        try:
            if rest and first in self._names:
                return self._others(first).answer(gate.route_of(f"/{rest}"), body)
            return self._first.answer(gate.route_of(path), body)
        except RaylatentError as error:
            logger.warning("not shown: %s", error)
            return Answer(
                status=500, body=b"it cannot be read: the terminal says why\n"
            )


def _stamp(root: Path) -> tuple[int, int] | None:
    """What tells explorer.json from another one; None where there is none."""
    told = root / EXPLORER_JSON
    stat = told.stat() if told.is_file() else None
    return None if stat is None else (stat.st_mtime_ns, stat.st_ino)


def _as_json(value: object) -> Answer:
    data = json.dumps(value).encode()
    return Answer(status=200, body=data, media_type=_TYPES[".json"])


def _of_cell(
    grid: SquareGrid, row: int, col: int, xy: NDArray[np.float64]
) -> NDArray[np.int32]:
    """0 for places (n, 2) in a cell of the explorer, else -1."""
    rows, cols = grid.bin(xy)
    return np.where((rows == row) & (cols == col), 0, -1).astype(np.int32)


def application(explorers: Explorers, rules: Gate) -> Callable[..., Awaitable[None]]:
    """The server's ASGI application."""
    from starlette.concurrency import run_in_threadpool  # noqa: PLC0415  (an extra)
    from starlette.requests import Request  # noqa: PLC0415
    from starlette.responses import FileResponse, Response  # noqa: PLC0415

    async def answer(request: Request) -> Answer:
        headers = [
            (k.decode("latin-1"), v.decode("latin-1")) for k, v in request.headers.raw
        ]
        asked = Asked(
            method=request.method,
            path=request.scope["path"],
            query=request.scope["query_string"].decode("latin-1"),
            headers=headers,
        )
        refused = rules.refuses(asked)
        if refused is not None:
            return refused
        body = b""
        if asked.method == "POST":
            async with asyncio.timeout(_BODY_S):
                async for chunk in request.stream():
                    body += chunk
                    if len(body) > MAX_BYTES:
                        return Answer(status=413, body=b"the polygon is too large\n")
        found: Answer = await run_in_threadpool(explorers.answer, asked.path, body)
        return found

    async def app(scope: Any, receive: Any, send: Any) -> None:  # noqa: ANN401
        if scope["type"] != "http":
            return
        try:
            found = await answer(Request(scope, receive))
        except TimeoutError:
            found = Answer(status=408)
        about: dict[str, Any] = {
            "status_code": found.status,
            "headers": {**gate.HEADERS, **found.headers},
            "media_type": found.media_type,
        }
        if found.file is None:
            await Response(found.body, **about)(scope, receive, send)
        else:
            await FileResponse(found.file, **about)(scope, receive, send)

    return app


def serve(config: ServeConfig, say: Callable[[str], None]) -> None:
    """Serve the explorer of a run until the process is told to stop.

    Args:
        config: What the verb takes.
        say: Is told the address, with the token.

    Raises:
        ConfigError: The extra is not installed, or the address cannot be listened on.
        MapError: As of `Explorers`.
    """
    try:
        import starlette  # noqa: F401, PLC0415  (an extra)
        import uvicorn  # noqa: PLC0415
    except ImportError as error:
        message = "serve needs the extra serve: pip install 'raylatent[serve]'"
        raise ConfigError(message) from error
    hosts = gate.hosts_of(config.host, config.allow_host)
    explorers = Explorers(config)
    listening = _listen(config.host, config.port)
    port = listening.getsockname()[1]
    token = token_urlsafe(16)  # 128 bits
    rules = Gate(token=token, hosts=hosts, cookie=f"raylatent_{port}")
    if config.host not in {"127.0.0.1", "::1", "localhost"}:
        logger.warning(
            "%s can be reached by others, and without TLS the token and all that is "
            "shown travel readable: an SSH tunnel to 127.0.0.1 does not let them",
            config.host,
        )
    shown = f"[{config.host}]" if ":" in config.host else config.host
    say(f"http://{shown}:{port}/?token={token}")
    settings = uvicorn.Config(
        application(explorers, rules),
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
