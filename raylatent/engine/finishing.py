"""Slides whose tiles are all extracted: one TFRecord each, and a record that it is so."""

import json
import logging
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from typing import Any

from raylatent import schema
from raylatent.claim import refuse_taken
from raylatent.engine.done import is_unchanged, read_files, same_source
from raylatent.errors import SourceError, StorageError
from raylatent.parts import Part, partition_folder, read_part
from raylatent.run import QUARANTINE, REMOVED, TILES, ExtractionDirectory
from raylatent.seal import FILES, content_digest, json_holds, parse_json, sealed_json
from raylatent.source.protocol import Request, Source
from raylatent.source.record import TileRecord
from raylatent.source.write import SUFFIX, put_tfrecord
from raylatent.storage import FileStat

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
_THREADS = 16
_LONGEST_NAME = 255 - len(".index.npz")


@dataclass(frozen=True, kw_only=True)
class Finished:
    """A slide whose TFRecord is in place.

    Attributes:
        source: The slide as it was.
        tfrecord: The file's name in the run directory.
        size: Of it, in bytes.
        tiles: Its records.
        files: Digests of the TFRecord and its index by name.
    """

    source: Source
    tfrecord: str
    size: int
    tiles: int
    files: Mapping[str, str]


def refuse_long_names(slides: Sequence[str]) -> None:
    """Refuse slides whose name with `.index.npz` is too long for a file.

    Raises:
        SourceError: The message names the first.
    """
    for slide in slides:
        if len(slide.encode()) > _LONGEST_NAME:
            message = f"slide {slide[:40]!r}... has too long a name for a TFRecord"
            raise SourceError(message)


def finish_slide(
    run: ExtractionDirectory, source: Source, fingerprint: str
) -> Finished | None:
    """Write a slide's TFRecord out of its parts, then delete them.

    Killed in between, doing it again gives the same file.

    Args:
        run: The run directory.
        source: A slide whose parts are all there.
        fingerprint: Of the run's configuration, as the driver knows it.

    Returns:
        What was written; None if the slide has not one good tile, or parts went away,
        as by such a task of a run that was killed.

    Raises:
        ClaimError: Another driver has taken over since.
    """
    parts = same_source(source, run.parts_of(source.slide))
    parts.sort(key=lambda part: part.unit)
    n_tiles = sum(part.rows for part in parts)
    if n_tiles + sum(part.quarantined for part in parts) != source.n_indexed:
        return None
    if not n_tiles:
        return None
    name = run.tfrecord(source.slide)
    refuse_taken(run.store)
    size, files = put_tfrecord(run.store, name, _records(run, parts))
    finished = Finished(
        source=source, tfrecord=name, size=size, tiles=n_tiles, files=files
    )
    record = _as_json(finished, fingerprint)
    refuse_taken(run.store)
    run.store.write(run.finished(source.slide), record)
    run.store.delete_folder(f"{TILES}/{partition_folder(source.slide)}")
    return finished


def _records(run: ExtractionDirectory, parts: Sequence[Part]) -> Iterator[TileRecord]:
    for part in parts:
        table = read_part(run.store, part.name)
        columns = (schema.IMAGE_RAW, schema.LOC_X, schema.LOC_Y)
        for image, x, y in zip(*(table[name] for name in columns), strict=True):
            yield TileRecord(image.as_py(), part.slide, x.as_py(), y.as_py())


def _as_json(finished: Finished, fingerprint: str) -> bytes:
    about = {
        "fingerprint": fingerprint,
        "tfrecord": finished.tfrecord,
        "size": finished.size,
        "tiles": finished.tiles,
        "source": asdict(finished.source),
        FILES: dict(finished.files),
    }
    return json.dumps(sealed_json(about), indent=1).encode()


def finished_slides(
    run: ExtractionDirectory, requests: Mapping[str, Request]
) -> dict[str, Finished]:
    """Slides whose TFRecord is in place, made of the slide as it is now."""
    with ThreadPoolExecutor(_THREADS) as pool:
        found = pool.map(lambda slide: _finished(run, slide, requests[slide]), requests)
        return {one.source.slide: one for one in found if one is not None}


def _finished(
    run: ExtractionDirectory, slide: str, request: Request
) -> Finished | None:
    name = run.finished(slide)
    if not run.store.exists(name):
        return None
    try:
        about = parse_json(run.store.read(name))
        if about is None or not json_holds(about):
            message = "it is not as it was written"
            raise ValueError(message)  # noqa: TRY301
        values = about["source"]
        source = Source(**{**values, "stat": FileStat(**values["stat"])})
        finished = Finished(
            source=replace(source, uri=request.uri),
            tfrecord=run.tfrecord(slide),
            size=about["size"],
            tiles=int(about["tiles"]),
            files={name: about[FILES][name] for name in run.files_of(slide)},
        )
        current = about["fingerprint"] == run.settings()["fingerprint"]
    except (ValueError, LookupError, TypeError) as error:
        logger.warning("%s is broken, the slide is done again: %s", name, error)
        return None
    if not current or not is_unchanged(run, source, request):
        return None
    try:
        in_place = run.store.size(finished.tfrecord) == finished.size
        n_tiles = finished.tiles + len(broken_tiles(run, slide))
    except StorageError:
        return None
    return finished if in_place and n_tiles == source.n_indexed else None


def sound_slides(
    run: ExtractionDirectory, finished: Mapping[str, Finished]
) -> dict[str, Finished]:
    """Finished slides whose TFRecord and index are as they were written.

    Others are named in a warning.
    """
    names = [name for one in finished.values() for name in one.files]
    states = read_files(run.store, names, what="check", unit="TFRecords and indexes")
    sound = {}
    for slide, one in finished.items():
        changed = [
            name
            for name, digest in one.files.items()
            if name not in states or states[name].digest != digest
        ]
        if changed:
            logger.warning("%s is broken: its slide is done again", changed[0])
        else:
            sound[slide] = one
    return sound


def forget_parts(run: ExtractionDirectory, finished: Mapping[str, Finished]) -> None:
    """Delete parts of finished slides that a run that was killed left."""
    for slide in finished:
        run.store.delete_folder(f"{TILES}/{partition_folder(slide)}")


def forget_stale(
    run: ExtractionDirectory, sources: Iterable[Source], finished: Container[str]
) -> None:
    """Delete TFRecords of slides that are to be extracted again, or have no tile now.

    Those of slides that cannot be read stay: that may pass.
    """
    there = set(run.store.list(run.folder))
    for source in sources:
        lost = source.error is not None
        if not lost and source.slide not in finished:
            run.forget(source.slide, there)


def broken_tiles(run: ExtractionDirectory, slide: str) -> list[str]:
    """Why each quarantined tile of a slide is broken; it may be set aside."""
    folder = f"{QUARANTINE}/{partition_folder(slide)}"
    names = {
        name.removeprefix(place): name
        for place in (f"{REMOVED}/{folder}", folder)
        for name in run.store.list(place)
    }
    return [
        error
        for name in names.values()
        for error in read_part(run.store, name, [schema.ERROR])[
            schema.ERROR
        ].to_pylist()
    ]


def write_record_counts(
    run: ExtractionDirectory, finished: Mapping[str, Finished]
) -> dict[str, str]:
    """Slideflow's manifest.json, the number of records of each TFRecord; its digest."""
    name = run.inside(MANIFEST)
    manifest: dict[str, Any] = {}
    if run.store.exists(name):
        try:
            manifest = dict(json.loads(run.store.read(name)))
        except (ValueError, TypeError):
            logger.warning("%s/%s is broken and is made anew", run.uri, name)
    there = set(run.store.list(run.folder))
    manifest = {k: v for k, v in manifest.items() if run.inside(k) in there}
    for slide, one in finished.items():
        manifest[f"{slide}{SUFFIX}"] = {"total": one.tiles}
    text = json.dumps(dict(sorted(manifest.items())), indent=1).encode()
    run.store.write(name, text)
    return {name: content_digest(text)}
