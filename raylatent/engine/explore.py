"""The explorer of a map, its pictures spread over the cluster."""

import json
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from raylatent.engine.cells import ClusterPoints
from raylatent.engine.cluster import spread
from raylatent.engine.progress import Progress
from raylatent.explorer import pictures
from raylatent.explorer.reach import Found, Tiles, find_cells
from raylatent.explorer.squares import Drawn, Pictures, SquareWork, draw_square
from raylatent.explorer.write import Scripts, Wanted, Whole, write_data
from raylatent.montage.points import Rule
from raylatent.run import MAPS, RunDirectory
from raylatent.run.layout import EXPLORER_JSON
from raylatent.seal import sealed_json
from raylatent.storage import Store
from raylatent.stored.manifest import relisted
from raylatent.stored.mosaic_inputs import Located, source_places


def draw_pictures(store: Store, found: Found, tiles: Tiles) -> Drawn:
    """Write the pictures of all levels."""
    made = Pictures(store, found, tiles)
    waiting: deque[SquareWork] = deque()

    def calls() -> Iterator[tuple[Any, ...]]:
        for work in made.works():
            waiting.append(replace(work, places=()))
            yield store, work, tiles.cell_px, tiles.tile_px

    with Progress("explorer", len(found.chosen[-1])) as progress:
        for done in spread(draw_square, calls()):
            work = waiting.popleft()
            made.add(work, done)
            progress.add(len(work.which))
    return made.finish()


def build_explorer(run: RunDirectory, uri: str, wanted: Wanted) -> dict[str, Any]:
    """Write the explorer of a map into a folder; what explorer.json says.

    Args:
        run: The run.
        uri: Of the folder, local; what is there of an explorer is replaced.
        wanted: What it is to be.

    Raises:
        MapError: There is no such map, it is of other rows than the run has now, or
            another one has taken its place meanwhile.
    """
    points = ClusterPoints(f"{run.uri}/{MAPS}/{wanted.map}", run)
    points.check_rows()
    parts = points.labeled(wanted.label)
    tiles = Tiles(
        sources=_by_number(source_places(run, wanted.source_roots, points.slides)),
        cell_px=wanted.cell_px,
        tile_px=int(run.settings()["fields"]["tile_px"]),
    )
    rule = Rule(select="nearest", ties="hash", seed=wanted.seed)
    found = find_cells(parts, rule, tiles, wanted.max_bytes)
    store = Store(uri)
    with relisted(uri, anew=True) as digests:
        _clear(store)
        drawn = draw_pictures(store, found, tiles)
        digests.update(drawn.digests)
        told = Scripts(store=store, digests=digests)
        whole = Whole(
            run=run, points=points, parts=parts, found=found, drawn=drawn, wanted=wanted
        )
        facts = write_data(told, whole)
        points.same()
        told.write(EXPLORER_JSON, _as_text(facts))
    return facts


def _by_number(places: Mapping[int, Any]) -> dict[int, Located]:
    return {number: one for number, one in places.items() if isinstance(one, Located)}


def _as_text(facts: Mapping[str, Any]) -> bytes:
    return f"{json.dumps(sealed_json(facts), indent=1, ensure_ascii=False)}\n".encode()


def _clear(store: Store) -> None:
    store.delete(EXPLORER_JSON)
    for name in ("data", f"{pictures.MOSAIC}_files", "tiles", "slides"):
        store.delete_folder(name)
