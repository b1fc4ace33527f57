"""Whether TFRecords that tiles were extracted to are whole."""

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from raylatent.engine.finishing import Finished
from raylatent.engine.progress import Progress
from raylatent.engine.verify.parts import spread
from raylatent.errors import ContentError, SourceError, StorageError
from raylatent.parts import partition_folder
from raylatent.run import FINISHED, ExtractionDirectory
from raylatent.run.findings import (
    BROKEN,
    MISSING,
    WRONG,
    Finding,
    SlideFound,
    SlideTask,
)
from raylatent.source.index import FRAMES, LOCATIONS, sidecar_arrays, sidecar_name
from raylatent.source.tfrecord import (
    TFRecordIndex,
    index_tfrecord,
    iter_records,
    parse_example,
)
from raylatent.storage import Store

logger = logging.getLogger(__name__)

_TOGETHER = 4096  # records whose frames are checked in one go


def tfrecord_complaint(uri: str, n_tiles: int) -> str | None:
    """What is wrong with a TFRecord of so many tiles, None where nothing is.

    Every checksum is verified, and the index beside compared with the records.

    Raises:
        StorageError: It cannot be read, after retries.
    """
    try:
        index = index_tfrecord(uri)
    except SourceError as error:
        return str(error)
    if index.error is not None or len(index) != n_tiles:
        return index.error or f"it has {len(index)} records, not {n_tiles}"
    locations = []
    for start in range(0, len(index), _TOGETHER):
        chunk = slice(start, start + _TOGETHER)
        frames = iter_records(uri, index.offsets[chunk], index.lengths[chunk])
        for number, payload in enumerate(frames, start):
            try:
                locations.append(_location(payload))
            except ContentError as error:
                return f"record {number}: {error}"
    return _index_complaint(uri, index, locations)


def _location(payload: memoryview | ContentError) -> tuple[int, int] | None:
    """Where a tile is; ContentError if its record is broken."""
    if isinstance(payload, ContentError):
        raise payload
    tile = parse_example(payload)
    if tile.loc_x is None or tile.loc_y is None:
        return None
    return tile.loc_x, tile.loc_y


def _index_complaint(
    uri: str, index: TFRecordIndex, locations: Sequence[tuple[int, int] | None]
) -> str | None:
    """What is wrong with the index beside a TFRecord that is whole."""
    name = sidecar_name(uri.rpartition("/")[2])
    size = int(index.lengths.sum())
    try:
        arrays = sidecar_arrays(uri, size)
    except SourceError as error:
        return str(error)
    except StorageError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return f"its index {name} is missing"
        raise
    wanted = {FRAMES: np.stack([index.offsets, index.lengths], 1)}
    if locations and None not in locations:
        wanted[LOCATIONS] = np.array(locations, np.int64)
    same = arrays.keys() == wanted.keys() and all(
        np.array_equal(arrays[key], wanted[key]) for key in wanted
    )
    return None if same else f"its index {name} is not that of its records"


def check_tfrecord(
    store: Store, task: SlideTask, tfrecord: str, found: SlideFound
) -> None:
    """Check an extracted slide: its record of being whole, and its TFRecord.

    Args:
        store: The run directory.
        task: The slide.
        tfrecord: The file's name in the run directory.
        found: Findings and counts are added to it.
    """
    name = f"{FINISHED}/{partition_folder(task.slide)}/record.json"
    try:
        about: dict[str, Any] = json.loads(store.read(name))
        n_tiles, size = int(about["tiles"]), int(about["size"])
    except (ValueError, LookupError, TypeError) as error:
        found.findings.append(Finding(BROKEN, name, f"it cannot be read: {error!r}"))
        return
    if task.fingerprint not in {None, about.get("fingerprint")}:
        found.findings.append(Finding(WRONG, name, "it is of another configuration"))
    here = store.size(tfrecord)
    if here is None:
        found.findings.append(Finding(MISSING, tfrecord, "the slide was extracted"))
        return
    found.counts["rows"] += n_tiles
    found.counts["bytes"] += here
    why = f"it has {here} bytes, not {size}" if here != size else None
    why = why or tfrecord_complaint(f"{store.uri}/{tfrecord}", n_tiles)
    if why is not None:
        found.findings.append(Finding(BROKEN, tfrecord, why))


def check_extracted(
    store: Store, quarantine: Iterable[str], n_indexed: int | None, found: SlideFound
) -> None:
    """Check that tiles of a TFRecord and of its quarantine are all that were planned."""
    for name in quarantine:
        part = found.read(store, name, (), found.findings)
        found.counts["quarantined"] += 0 if part is None else part.rows
    n_found = found.counts["rows"] + found.counts["quarantined"]
    if not found.findings and n_indexed not in {None, n_found}:
        name = f"{FINISHED}/{partition_folder(found.slide)}/record.json"
        says = f"{n_found} tiles were extracted or are bad, {n_indexed} were planned"
        found.findings.append(Finding(WRONG, name, says))


def sound_slides(
    run: ExtractionDirectory, finished: Mapping[str, Finished]
) -> dict[str, Finished]:
    """Finished slides whose TFRecord is whole; others are named in a warning."""
    items = list(finished.items())
    sound = {}
    with Progress("check", len(items), unit="TFRecords") as progress:
        arguments = ((f"{run.uri}/{f.tfrecord}", f.tiles) for _, f in items)
        answers = spread(_complaint, arguments)
        for (slide, one), why in zip(items, answers, strict=True):
            progress.add(1)
            if why is None:
                sound[slide] = one
            else:
                logger.warning("%s is broken (%s): done again", one.tfrecord, why)
    return sound


def _complaint(uri: str, n_tiles: int) -> str | None:
    try:
        return tfrecord_complaint(uri, n_tiles)
    except StorageError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return str(error)
        raise
