"""The explorer of a map, its pictures spread over the cluster."""

import json
import logging
import secrets
from math import prod
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from raylatent import schema
from raylatent.engine.cells import ClusterPoints
from raylatent.engine.cluster import spread
from raylatent.engine.progress import Progress, still_working
from raylatent.errors import MapError, RunError, StorageError
from raylatent.explorer import pictures
from raylatent.explorer.folder import CELLS, Told, Wanted
from raylatent.explorer.on_slides import small_picture
from raylatent.explorer.pyramid import with_few_classes
from raylatent.explorer.reach import (
    N_SIMILAR,
    Found,
    Tiles,
    find_cells,
    similar_level,
)
from raylatent.explorer.scripts import MOST_CLASSES
from raylatent.explorer.squares import Pictures, draw_square
from raylatent.explorer.write import Similar, write_data
from raylatent.mapping.statistics import nearest_rows
from raylatent.montage.points import Parts, Rule
from raylatent.run import MAPS, RunDirectory
from raylatent.run.directory import TEMPORARY
from raylatent.run.layout import EXPLORER_JSON
from raylatent.seal import content_digest, sealed_json
from raylatent.storage import Store
from raylatent.stored.manifest import relisted
from raylatent.stored.map_points import StoredPoints
from raylatent.stored.mosaic_inputs import Located, source_places

logger = logging.getLogger(__name__)

_TOGETHER = 512  # tiles whose activations a task reads
_SOME_SLIDES = 16  # whose pictures tell how many bytes those of all take
_MOST_PARTS = 2_000  # that are read to compare cells


def draw_pictures(store: Store, found: Found, tiles: Tiles) -> Pictures:
    """Write the pictures of all levels."""
    made, n_tiles = Pictures(store, found, tiles), len(found.chosen[-1])
    calls = ((store, work, tiles.cell_px, tiles.tile_px) for work in made.works())
    with Progress("explorer", n_tiles) as progress:
        for done in spread(draw_square, calls, num_cpus=1):
            made.add(done)
            progress.add(done.n)
    made.finish()
    if made.failed:
        logger.warning(
            "%d of %d tiles cannot be read and are gray; the first: %s",
            *(len(made.failed), n_tiles, made.failed[min(made.failed)]),
        )
    return made


def similar_cells(points: StoredPoints, found: Found) -> Similar | None:
    """The cells whose tiles are nearest in activation space; None if that is not known.

    Only parts of the run that have one of these tiles are read, each of them whole.
    """
    try:
        width = prod(points.run.layers()[points.layer])
        few = len(points.part_names) <= _MOST_PARTS
        counts = [len(cells) for cells in found.chosen]
        counts = [n for n in counts if few or n <= _MOST_PARTS]
        level = similar_level(counts, width)
        if level is None:
            return None
        tiles = found.chosen[level].select([schema.SLIDE, schema.TILE_INDEX])
        order = pc.sort_indices(
            tiles, sort_keys=[(n, "ascending") for n in tiles.schema.names]
        )
        ordered = tiles.take(order)
        starts = range(0, len(ordered), _TOGETHER)
        calls = [(points, ordered.slice(start, _TOGETHER)) for start in starts]
        read = list(spread(activations_of, calls))
    except (KeyError, MapError, RunError, StorageError) as error:
        logger.warning("the page knows no similar cells: %s", error)
        return None
    rows = np.empty((len(tiles), width), np.float32)
    rows[order.to_numpy()] = np.concatenate(read)
    with still_working("comparing cells"):
        return level, nearest_rows(rows, N_SIMILAR)


def activations_of(points: StoredPoints, tiles: pa.Table) -> NDArray[np.float32]:
    """Activations (n, d) of some tiles by slide, then tile index: a task's work."""
    return points.vectors(tiles, points.layer).astype(np.float32)


def build_explorer(run: RunDirectory, uri: str, wanted: Wanted) -> dict[str, Any]:
    """Write the explorer of a map into a folder; what explorer.json says.

    Args:
        run: The run.
        uri: Of the folder, local; what is there of an explorer is replaced.
        wanted: What it is to be.

    Raises:
        MapError: There is no such map, it is of other rows than the run has now,
            another one has taken its place meanwhile, the folder holds something else,
            or a text has the name of a slide that is to have a pseudonym.
    """
    store = Store(uri)
    if not store.exists(EXPLORER_JSON) and (store.root_files() or store.root_folders()):
        message = f"{uri} holds something else than an explorer: give an empty folder"
        raise MapError(message)
    points = ClusterPoints(f"{run.uri}/{MAPS}/{wanted.map}", run)
    points.check_rows()
    places = source_places(run, wanted.source_roots, points.slides)
    tiles = Tiles(
        sources={n: one for n, one in places.items() if isinstance(one, Located)},
        cell_px=wanted.cell_px,
        tile_px=int(run.settings()["fields"]["tile_px"]),
    )
    told, parts = _found(points, wanted, tiles)
    meta, similar = told.meta(), similar_cells(points, told.found)
    points.same()
    with relisted(uri, anew=True) as digests:
        _clear(store, pseudonyms=wanted.pseudonyms is not None)
        drawn = draw_pictures(store, told.found, tiles)
        digests.update({name: digest for name, (digest, _) in drawn.files.items()})

        def write(name: str, data: bytes) -> None:
            store.write(name, data)
            if not name.endswith(".parquet"):  # which tells its own
                digests[name] = content_digest(data)

        write_data(write, told, meta, parts, drawn, similar, uri)
        points.same()
        n_bytes = sum(n for _, n in drawn.files.values())
        facts = told.facts(n_bytes, len(drawn.failed))
        text = json.dumps(sealed_json(facts), indent=1, ensure_ascii=False)
        store.write(EXPLORER_JSON, f"{text}\n".encode())
    return facts


def _found(points: StoredPoints, wanted: Wanted, tiles: Tiles) -> tuple[Told, Parts]:
    """The cells, and the points with the predictions that are told."""
    request, kept = wanted.request(points.store), []
    parts = points.labeled(wanted.label)
    n_classes = points.run.settings().get("num_classes") or 0
    if n_classes > MOST_CLASSES:
        parts, numbers = with_few_classes(parts)
        kept = numbers.tolist()
        logger.warning(
            "of %d classes the page has the %d with the largest mean predictions, and "
            "the best of the others as one",
            *(n_classes, len(kept)),
        )
    # By hashes of a known seed one could try out the names behind pseudonyms.
    seed = wanted.seed if wanted.pseudonyms is None else secrets.randbits(62)
    rule = Rule(select="nearest", ties="hash", seed=seed)
    of_slides = _slides_bytes(points, plain=wanted.pseudonyms is not None)
    found = find_cells(parts, rule, tiles, wanted.max_bytes, of_slides)
    if found.extent.n_bytes > wanted.max_bytes:
        logger.warning(
            "the page takes about %.1f MB, more than --max-size of %.1f MB: pictures of "
            "slides, which take %.1f MB, are always in it, as are some points and cells",
            *(n / 1e6 for n in (found.extent.n_bytes, wanted.max_bytes, of_slides)),
        )
    pa.default_memory_pool().release_unused()  # what merging took
    own: dict[str, Any] = {"found": found, "request": request, "kept_classes": kept}
    return Told(run=points.run, points=points, wanted=wanted, **own), parts


def _slides_bytes(points: StoredPoints, *, plain: bool) -> float:
    """About how many bytes pictures of all slides take, by those of some."""
    some = points.slides[:: -(-len(points.slides) // _SOME_SLIDES)]
    own = [small_picture(points.run, slide, plain=plain) for slide in some]
    return sum(len(one.jpeg) for one in own if one) * len(points.slides) / len(some)


def _clear(store: Store, *, pseudonyms: bool) -> None:
    """Remove an explorer, and first what opens it; a mark of it stays.

    So a folder whose explorer was killed half-way is known as one, and has nothing of an
    older one that could be taken for its own.
    """
    mark = sealed_json({"maps": [], "pseudonyms": pseudonyms})
    store.write(EXPLORER_JSON, json.dumps(mark).encode())
    killed = filter(TEMPORARY.fullmatch, store.root_files())
    for name in ("index.html", CELLS, f"{pictures.MOSAIC}.dzi", *killed):
        store.delete(name)
    for name in ("data", f"{pictures.MOSAIC}_files", "tiles", "slides"):
        store.delete_folder(name)
