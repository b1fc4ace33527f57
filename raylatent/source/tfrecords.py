"""TFRecords as a kind of source: a file is a slide, a record a tile."""

import contextlib
import threading
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import Any, ClassVar, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raylatent import schema
from raylatent.errors import ContentError, MapError, SourceError, StorageError
from raylatent.run import RunDirectory
from raylatent.source.filebytes import iter_records, read_records
from raylatent.source.find import (
    below,
    find_tfrecords,
    is_tfrecord,
    slide_name,
    tile_um_of,
)
from raylatent.source.index import (
    TFRecordIndex,
    frames_beside,
    frames_from,
    index_tfrecord,
)
from raylatent.source.picture import FORMATS, open_image
from raylatent.source.protocol import (
    Chunk,
    Config,
    Content,
    Group,
    Kind,
    Source,
    SourceTile,
    Unit,
    UnitPlan,
)
from raylatent.source.record import SUFFIXES, parse_example
from raylatent.storage import NOT_SEEN, FileStat, file_stat

TFRECORDS = "tfrecords"

_PROBED_RECORDS = 3
_PROBED_AT_LAST = 256  # before it is said that a file holds no tiles
_FIRST_RECORDS = 64  # that are tried for the side of a tile
_CHUNK_RECORDS = 8
_CHUNK_BYTES = 8 << 20  # a chunk of larger records has fewer
_READ_BYTES = 32 << 20  # of chosen records that are held by one thread

Payload = memoryview | bytes | ContentError


@dataclass(frozen=True, kw_only=True)
class TFRecordRequest:
    """A TFRecord as an invocation names it.

    Attributes:
        uri: The file.
        tile_px: Side of its tiles where no picture tells it.
    """

    uri: str
    tile_px: int | None = None
    kind: ClassVar[str] = TFRECORDS

    def sized(self, tile_px: int) -> Self:
        """The same, its tiles taken to be of this side where no picture tells it."""
        return replace(self, tile_px=tile_px)


@dataclass(frozen=True, kw_only=True)
class RecordsPlan(UnitPlan):
    """A run of records, before their frames are read.

    Attributes:
        start: First byte of the first frame.
        sidecar: Whether the frames come from the `.index.npz` beside the file.
    """

    start: int
    sidecar: bool


@dataclass(frozen=True, kw_only=True)
class RecordUnit(Unit):
    """A run of records of one file.

    Attributes:
        offsets: First byte of each record's frame, shape (n,), int64.
        lengths: Bytes of each frame, shape (n,), int64.
    """

    offsets: NDArray[np.int64]
    lengths: NDArray[np.int64]

    def __len__(self) -> int:
        """Number of tiles."""
        return len(self.offsets)

    def chunks(self, opened: object = None) -> Iterator[Chunk]:  # noqa: ARG002
        """Records in their order; what is given is read, and is to be parsed."""
        records = enumerate(iter_records(self.source.uri, self.offsets, self.lengths))
        while some := list(_few(records)):
            yield Chunk(
                tiles=partial(_parsed, some, self.source.slide),
                n_bytes=sum(_size(payload) for _, payload in some),
            )

    def part(self, start: int, stop: int) -> Self:
        """Records [start, stop) of the unit."""
        return replace(
            self,
            first=self.first + start,
            offsets=self.offsets[start:stop],
            lengths=self.lengths[start:stop],
        )

    def columns(self) -> dict[str, pa.Array]:
        """The frames."""
        return {
            schema.OFFSET: pa.array(self.offsets),
            schema.LENGTH: pa.array(self.lengths.astype(np.int32)),
        }


def _few(records: Iterator[tuple[int, Payload]]) -> Iterator[tuple[int, Payload]]:
    """The next records, fewer where they are large."""
    n_bytes = 0
    for number, payload in islice(records, _CHUNK_RECORDS):
        yield number, payload
        n_bytes += _size(payload)
        if n_bytes > _CHUNK_BYTES:
            return


def _size(payload: Payload) -> int:
    return 0 if isinstance(payload, ContentError) else len(payload)


def _parsed(payloads: list[tuple[int, Payload]], slide: str) -> Iterator[SourceTile]:
    """The tiles of some records; of each record no more is held once it was given."""
    payloads.reverse()
    while payloads:
        position, payload = payloads.pop()
        yield tile_of_record(position, payload, slide)


def tile_of_record(position: int, payload: Payload, slide: str) -> SourceTile:
    """The tile of a record.

    Args:
        position: In its unit.
        payload: The serialized tf.train.Example, or why it cannot be read.
        slide: Whose tile it should be.
    """
    if isinstance(payload, ContentError):
        return SourceTile(position, payload)
    try:
        record = parse_example(payload)
    except ContentError as error:
        return SourceTile(position, error)
    return SourceTile(
        position,
        record.image_raw,
        record.loc_x,
        record.loc_y,
        other_slide=record.slide not in {None, slide},
    )


@dataclass(frozen=True, kw_only=True)
class Frame:
    """Where a chosen tile's record is.

    Attributes:
        uri: The TFRecord.
        tile_index: Number of the record in it.
        offset: First byte of its frame; None: found through the file's index.
        length: Bytes of its frame.
    """

    uri: str
    tile_index: int
    offset: int | None = None
    length: int | None = None
    together: ClassVar[int] = 32
    formats: ClassVar[Sequence[str]] = FORMATS

    @property
    def file(self) -> tuple[str, ...]:
        """The TFRecord."""
        return (self.uri,)

    @property
    def order(self) -> tuple[int, ...]:
        """By the number in the file."""
        return (self.tile_index,)

    def reader(self, n_groups: int, turns: threading.Semaphore) -> "RecordsAgain":  # noqa: ARG002
        """What reads records of this file."""
        return RecordsAgain(self.uri)


class RecordsAgain:
    """Reads chosen records of one file; the file is indexed once, if it must be.

    Args:
        uri: The file.
    """

    def __init__(self, uri: str) -> None:
        """See the class."""
        self._uri = uri
        self._lock = threading.Lock()
        self._index: TFRecordIndex | None = None

    def __call__(
        self,
        group: Group,
        tile_px: int,  # noqa: ARG002  (records are read whole)
    ) -> Iterator[tuple[int, Content | str]]:
        """Pictures of some records, or why there are none."""
        located = []
        for position, frame in group:
            try:
                located.append((position, self._located(frame)))
            except (MapError, SourceError, StorageError) as error:
                yield position, str(error)
        for some in _batches(located):
            yield from self._read(some)

    def _located(self, frame: Frame) -> Frame:
        if frame.offset is not None:
            return frame
        with self._lock:
            if self._index is None:
                self._index = index_tfrecord(self._uri)
        return frame_of(self._index, self._uri, frame.tile_index)

    def _read(
        self, located: Sequence[tuple[int, Frame]]
    ) -> Iterator[tuple[int, Content | str]]:
        offsets = [frame.offset or 0 for _, frame in located]
        lengths = [frame.length or 0 for _, frame in located]
        try:
            payloads = read_records(self._uri, offsets, lengths)
        except (SourceError, StorageError) as error:
            yield from ((position, str(error)) for position, _ in located)
            return
        for (position, _), payload in zip(located, payloads, strict=True):
            yield position, tile_of_record(position, payload, "").content


def _batches(
    located: Sequence[tuple[int, Frame]],
) -> Iterator[list[tuple[int, Frame]]]:
    """Frames of at most `_READ_BYTES` together."""
    some: list[tuple[int, Frame]] = []
    n_bytes = 0
    for position, frame in located:
        length = frame.length or 0
        if some and n_bytes + length > _READ_BYTES:
            yield some
            some, n_bytes = [], 0
        some.append((position, frame))
        n_bytes += length
    if some:
        yield some


def frame_of(index: TFRecordIndex, uri: str, tile_index: int) -> Frame:
    """The frame of a record by its number; MapError if there are not as many."""
    if not 0 <= tile_index < len(index.offsets):
        message = (
            f"there is no tile {tile_index} in {uri}, which has "
            f"{len(index.offsets)} records, numbered from 0"
        )
        raise MapError(message)
    return Frame(
        uri=uri,
        tile_index=tile_index,
        offset=int(index.offsets[tile_index]),
        length=int(index.lengths[tile_index]),
    )


class TFRecords(Kind):
    """TFRecord files, see `source.protocol.Kind`."""

    name: ClassVar[str] = TFRECORDS
    frame: ClassVar[Sequence[str]] = (schema.OFFSET, schema.LENGTH)

    def holds(self, files: Sequence[str]) -> bool:
        """Whether one is called as a TFRecord."""
        return any(is_tfrecord(file) for file in files)

    def find(self, config: Config) -> dict[str, TFRecordRequest]:
        """The files of `--tfrecords`."""
        paths: Sequence[str] = getattr(config, self.name, ())
        found = find_tfrecords(paths)
        return {slide: TFRecordRequest(uri=uri) for slide, uri in found.items()}

    def tile_px(self, request: TFRecordRequest) -> int | None:
        """Side of the first picture that can be opened among the first records."""
        index = index_tfrecord(request.uri)
        some = slice(None, _FIRST_RECORDS)
        problem = "the file is empty"
        for payload in iter_records(
            request.uri, index.offsets[some], index.lengths[some]
        ):
            content = tile_of_record(0, payload, "").content
            try:
                if isinstance(content, ContentError):
                    raise content
                return open_image(bytes(content)).width
            except ContentError as error:  # that tile's matter: the next may do
                problem = str(error)
        message = f"{request.uri}: {problem}"
        raise SourceError(message)

    def index(
        self,
        run: RunDirectory,  # noqa: ARG002  (nothing of a file is kept there)
        slide: str,
        request: TFRecordRequest,
        unit_tiles: int,
    ) -> tuple[Source, list[UnitPlan]]:
        """A file and its units."""
        source, index = index_source(slide, request.uri, request.tile_px)
        return source, list(unit_plans(source, index, unit_tiles))

    def stat(self, request: TFRecordRequest | Source) -> FileStat:
        """Of the file."""
        return file_stat(request.uri)

    def load(self, run: RunDirectory, plan: UnitPlan) -> RecordUnit:  # noqa: ARG002
        """The unit with its frames."""
        if not isinstance(plan, RecordsPlan):
            raise TypeError(plan)
        return load_unit(plan)

    def moved(
        self, roots: Sequence[str], sources: Mapping[str, Source]
    ) -> dict[str, str]:
        """Files of these slides below other folders."""
        return tfrecords_below(roots, sources, may_lack=True)

    def broken(self, uri: str, frames: pa.Table) -> list[str]:
        """Which records' frames are not what they were, and why."""
        offsets, lengths = (frames[name].to_numpy() for name in self.frame)
        order = np.argsort(offsets, kind="stable")
        payloads = iter_records(uri, offsets[order], lengths[order])
        return [
            f"the record at byte {offsets[i]}: {payload}"
            for i, payload in zip(order, payloads, strict=True)
            if isinstance(payload, ContentError)
        ]

    def place(
        self,
        source: Source,  # noqa: ARG002
        uri: str,
        row: Mapping[str, Any],
        *,
        icc: bool,  # noqa: ARG002
    ) -> Frame:
        """The record."""
        return Frame(
            uri=uri,
            tile_index=row[schema.TILE_INDEX],
            offset=row[schema.OFFSET],
            length=row[schema.LENGTH],
        )


def tfrecords_below(
    roots: Sequence[str],
    needed: Container[str],
    *,
    may_lack: bool = False,
) -> dict[str, str]:
    """TFRecords of some slides, see `source.find.below`."""
    return below(
        roots,
        needed,
        find=find_tfrecords,
        suffixes=SUFFIXES,
        name_of=slide_name,
        may_lack=may_lack,
    )


def index_source(
    slide: str, uri: str, tile_px: int | None
) -> tuple[Source, TFRecordIndex]:
    """Index one file; one that cannot be has no tiles and says why in `error`.

    The id is 0 until `number_sources` gives it one.

    Args:
        slide: The slide's name.
        uri: The file.
        tile_px: Side of the tiles where no picture tells it.
    """
    empty = TFRecordIndex(np.empty(0, np.int64), np.empty(0, np.int64))
    stat = NOT_SEEN
    try:
        stat = file_stat(uri)
        index = index_tfrecord(uri)
        complaint, width = _look_inside(uri, index)
        tile_px = tile_px if width is None else width
        error = index.error or complaint
    except (SourceError, StorageError) as failure:
        index, error = empty, str(failure)
    if error is not None and index.error is None:
        index = empty
    source = Source(
        source=0,
        slide=slide,
        kind=TFRECORDS,
        uri=uri,
        stat=stat,
        n_indexed=len(index),
        tile_px=tile_px,
        tile_um=tile_um_of(uri),
        error=error,
    )
    return source, index


def _look_inside(uri: str, index: TFRecordIndex) -> tuple[str | None, int | None]:
    """What some records show of a file: the first, middle and last, or more of them.

    Returns:
        What is wrong if none has a picture, and the width of the first picture that
        can be opened, in pixels.
    """
    complaint = None
    for most in (_PROBED_RECORDS, _PROBED_AT_LAST):
        complaint, fine, width = _probe(uri, index, most)
        if fine:
            return None, width
    return complaint, None


def _probe(
    uri: str, index: TFRecordIndex, most: int
) -> tuple[str | None, bool, int | None]:
    """A complaint, whether any record is a tile or broken bytes, a picture's width."""
    n = len(index)
    probed = np.unique(np.linspace(0, n - 1, min(n, most)).astype(np.int64))
    complaint, fine = None, n == 0
    for payload in iter_records(uri, index.offsets[probed], index.lengths[probed]):
        if isinstance(payload, ContentError):
            fine = True  # broken bytes are the tile's matter, not the file's
            continue
        try:
            record = parse_example(payload)
        except ContentError as error:
            complaint = f"{uri}: {error}"
            continue
        fine = True
        with contextlib.suppress(ContentError):
            return None, True, open_image(record.image_raw).width
    return complaint, fine, None


def unit_plans(
    source: Source, index: TFRecordIndex, unit_tiles: int
) -> list[RecordsPlan]:
    """The units over one indexed file, in tile order."""
    return [
        RecordsPlan(
            source=source,
            unit=unit,
            first=first,
            count=min(unit_tiles, len(index) - first),
            start=int(index.offsets[first]),
            sidecar=index.sidecar,
        )
        for unit, first in enumerate(range(0, len(index), unit_tiles))
    ]


def load_unit(plan: RecordsPlan) -> RecordUnit:
    """The unit with its frames.

    Raises:
        StorageError: The file cannot be read, or has changed since it was planned.
    """
    uri = plan.source.uri
    if plan.sidecar:
        index = frames_beside(uri, plan.first, plan.count)
        if int(index.offsets[0]) != plan.start:
            message = f"the index beside {uri} has changed since it was read: run again"
            raise StorageError(message)
    else:
        index = frames_from(uri, plan.start, plan.count)
    return RecordUnit(
        source=plan.source,
        unit=plan.unit,
        first=plan.first,
        offsets=index.offsets,
        lengths=index.lengths,
    )
