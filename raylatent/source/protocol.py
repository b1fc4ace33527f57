"""What a kind of source is: everything outside this folder asks this, never which kind.

A kind finds its sources, indexes each, reads a unit's tiles, and finds chosen tiles again.
A new kind is one module with a class of this form, and a line in `source.kinds`.

A unit is tiles [k U, (k+1) U) of one slide, U fixed for a run, so that a file that
grows renames nothing. sources.parquet is the plan as data.
"""

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raylatent import schema
from raylatent.config import ActivationsConfig, SlidesConfig
from raylatent.errors import ContentError, StorageError
from raylatent.run import RunDirectory
from raylatent.source.picture import FORMATS
from raylatent.storage import FileStat

Config = ActivationsConfig | SlidesConfig
Content = bytes | memoryview | NDArray[np.uint8] | ContentError
"""An encoded picture, or pixels (h, w, 3) uint8, or what is wrong with the tile."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """One slide's tiles, as in sources.parquet.

    Attributes:
        source: Id that rows refer to, kept as long as the run lives.
        slide: The slide's name.
        kind: What its tiles are read from, see `source.kinds`.
        uri: Where that was when it was planned: a file, or a folder.
        pattern: Of a folder: a regular expression that its files' paths match, and
            whose group `slide` is the slide's name where it has one; None: all files.
        stat: What tells whether it has changed.
        n_indexed: Tiles that the run promises a row or a quarantine row for.
        tile_px: Side of the tiles in pixels, None where not known.
        tile_um: Side in µm where it is known.
        mpp: µm a pixel of a slide's level 0.
        window_px: Side of the tiles in level-0 pixels, where they are cut out of a slide.
        bounds_x: Left edge of what was scanned of a slide, level-0 pixels; None where
            its file does not say.
        bounds_y: Upper edge likewise.
        error: Why the slide, or its rest, was given up; None where nothing is wrong.
    """

    source: int
    slide: str
    kind: str
    uri: str
    stat: FileStat
    n_indexed: int
    pattern: str | None = None
    tile_px: int | None = None
    tile_um: float | None = None
    mpp: float | None = None
    window_px: int | None = None
    bounds_x: int | None = None
    bounds_y: int | None = None
    error: str | None = None


@dataclass(frozen=True, kw_only=True)
class UnitPlan:
    """A run of tiles of one slide, before anything of them is read.

    Attributes:
        source: The slide's source.
        unit: Its number k in the slide.
        first: Tile index of its first tile.
        count: Number of tiles.
    """

    source: Source
    unit: int
    first: int
    count: int

    @property
    def last(self) -> int:
        """One past the last tile's index."""
        return self.first + self.count


def number_sources(sources: list[Source], known: Mapping[str, int]) -> list[Source]:
    """Give each source the id its slide has, or the next that none ever had."""
    following = max(known.values(), default=-1) + 1
    numbered = []
    for source in sources:
        number = known.get(source.slide)
        if number is None:
            number, following = following, following + 1
        numbered.append(replace(source, source=number))
    return numbered


def sources_table(sources: list[Source]) -> pa.Table:
    """Sources as schema.SOURCES."""
    return pa.Table.from_pylist(
        [
            {
                schema.SOURCE: source.source,
                schema.SLIDE: source.slide,
                schema.KIND: source.kind,
                schema.URI: source.uri,
                schema.PATTERN: source.pattern,
                schema.SIZE: source.stat.size,
                schema.MTIME: source.stat.mtime_ns,
                schema.ETAG: source.stat.etag,
                schema.N_INDEXED: source.n_indexed,
                schema.TILE_PX: source.tile_px,
                schema.TILE_UM: source.tile_um,
                schema.MPP: source.mpp,
                schema.WINDOW_PX: source.window_px,
                schema.BOUNDS_X: source.bounds_x,
                schema.BOUNDS_Y: source.bounds_y,
                schema.ERROR: source.error,
            }
            for source in sources
        ],
        schema=schema.SOURCES,
    )


def sources_from_table(table: pa.Table) -> list[Source]:
    """The inverse of `sources_table`."""
    mtimes = table[schema.MTIME].cast(pa.int64()).to_pylist()
    rows = table.drop_columns([schema.MTIME]).to_pylist()
    return [
        Source(
            source=row[schema.SOURCE],
            slide=row[schema.SLIDE],
            kind=row[schema.KIND],
            uri=row[schema.URI],
            pattern=row[schema.PATTERN],
            stat=FileStat(size=row[schema.SIZE], mtime_ns=mtime, etag=row[schema.ETAG]),
            n_indexed=row[schema.N_INDEXED],
            tile_px=row[schema.TILE_PX],
            tile_um=row[schema.TILE_UM],
            mpp=row[schema.MPP],
            window_px=row[schema.WINDOW_PX],
            bounds_x=row[schema.BOUNDS_X],
            bounds_y=row[schema.BOUNDS_Y],
            error=row[schema.ERROR],
        )
        for row, mtime in zip(rows, mtimes, strict=True)
    ]


@dataclass(frozen=True)
class SourceTile:
    """A tile as its source gives it.

    Attributes:
        position: In its unit, from 0.
        content: See Content.
        loc_x: Center in level-0 pixels, None where not recorded.
        loc_y: Likewise.
        other_slide: Whether its record names another slide.
        formats: That an encoded picture may have.
    """

    position: int
    content: Content
    loc_x: int | None = None
    loc_y: int | None = None
    other_slide: bool = False
    formats: Sequence[str] = FORMATS


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """Tiles that are read or parsed together, by any thread.

    Attributes:
        tiles: Gives them, once.
        n_bytes: That are held until they were given.
        stage: What `tiles` spends its time on: `read` or `decode`.
    """

    tiles: Callable[[], Iterator[SourceTile]]
    n_bytes: int = 0
    stage: str = "decode"


@dataclass(frozen=True, kw_only=True)
class Unit(ABC):
    """A run of tiles of one slide: what one task reads and one part holds.

    Attributes:
        source: The slide's source.
        unit: Its number k in the slide.
        first: Tile index of its first tile.
        encoded: Whether its chunks give encoded pictures, which another process may
            decode; else they give pixels, as many as a chunk has.
    """

    source: Source
    unit: int
    first: int
    encoded: ClassVar[bool] = True

    @abstractmethod
    def __len__(self) -> int:
        """Number of tiles."""

    @property
    def last(self) -> int:
        """One past the last tile's index."""
        return self.first + len(self)

    @abstractmethod
    def chunks(self, opened: Any = None) -> Iterator[Chunk]:  # noqa: ANN401
        """All tiles, in an order in which they are cheap to read.

        Args:
            opened: What this worker holds open, see `SlideCache`.

        Raises:
            StorageError: The source cannot be read, after retries.
        """

    @abstractmethod
    def part(self, start: int, stop: int) -> Self:
        """Tiles [start, stop) of the unit; only of encoded ones."""

    def columns(self) -> dict[str, pa.Array]:
        """What the source knows of `schema.REFERENCE`; its other columns are null."""
        return {}


Group = Sequence[tuple[int, Any]]
"""Chosen tiles of one file or slide, with their positions among all."""


class Place(Protocol):
    """Where a chosen tile's pixels are.

    Attributes:
        together: Tiles that are read by one thread at a time.
        formats: That encoded pictures may have.
    """

    together: ClassVar[int]
    formats: ClassVar[Sequence[str]]

    @property
    def file(self) -> tuple[str, ...]:
        """What tiles that are read from one file or slide have in common."""

    @property
    def order(self) -> tuple[int, ...] | tuple[str, ...]:
        """Tiles near in the file are near in this order."""

    def reader(self, n_groups: int, turns: threading.Semaphore) -> "PlaceReader":
        """What reads groups of the tiles of this one's file.

        Args:
            n_groups: How many groups it will read.
            turns: Bounds what is held open at a time, where that is costly.
        """


class PlaceReader(Protocol):
    """Reads chosen tiles of one file or slide again."""

    def __call__(
        self, group: Group, tile_px: int
    ) -> Iterator[tuple[int, Content | str]]:
        """Each tile's position and content, or the reason why there is none.

        Args:
            group: Which tiles.
            tile_px: Side at which they are drawn.
        """


class Request(Protocol):
    """A slide's source as an invocation names it.

    Attributes:
        kind: Of the source.
        uri: Where it is.
    """

    @property
    def kind(self) -> str:
        """Name of the kind."""

    @property
    def uri(self) -> str:
        """A file or folder."""

    def sized(self, tile_px: int) -> "Request":
        """The same for a model whose tiles have this side in pixels."""


class Kind(ABC):
    """One kind of source.

    Attributes:
        name: In sources.parquet; the option that names such sources is `--<name>`.
        has_grid: Whether tiles are cut out of a slide by a grid that the run keeps. It
            takes a core to decide the grid, and the slide is costly to open.
        frame: Columns of the rows that tell where a tile's bytes are in the source,
            where these have checksums; else none.
    """

    name: ClassVar[str]
    has_grid: ClassVar[bool] = False
    frame: ClassVar[Sequence[str]] = ()

    @abstractmethod
    def holds(self, files: Sequence[str]) -> bool:
        """Whether files, full paths or URIs, are of this kind: for paths of any kind."""

    @abstractmethod
    def find(self, config: Config) -> Mapping[str, Request]:
        """The sources that a configuration names, by slide, sorted.

        Raises:
            SourceError: A path is not there or holds none, or two slides have one name.
            AnnotationsError: The annotations that these need cannot be read.
        """

    def fields(self, config: Config, tile_px: int) -> Mapping[str, Any]:  # noqa: ARG002
        """What of the configuration changes a number, for the fingerprint."""
        return {}

    def tile_px(self, request: Any) -> int | None:  # noqa: ANN401, ARG002
        """Side of the first tile that can be opened, None where that means nothing.

        Raises:
            SourceError: The source cannot be read.
            StorageError: Likewise.
        """
        return None

    @abstractmethod
    def index(
        self,
        run: RunDirectory,
        slide: str,
        request: Any,  # noqa: ANN401  (its own)
        unit_tiles: int,
    ) -> tuple[Source, list[UnitPlan]]:
        """A source, whose id is 0, and its units.

        A source that cannot be indexed has no tiles, and says why in `error`.
        """

    @abstractmethod
    def stat(self, request: Any) -> FileStat:  # noqa: ANN401  (its own, or a Source)
        """What tells whether the source has changed.

        Raises:
            StorageError: It is not there.
        """

    def look_again(self) -> None:  # noqa: B027  (most hold nothing)
        """Forget what `stat` and `differs` have seen of sources of the plan."""

    def glimpse(self, request: Any) -> Request:  # noqa: ANN401  (its own)
        """The same, with as little as shows whether a node sees the source."""
        found: Request = request
        return found

    def is_unchanged(
        self,
        run: RunDirectory,  # noqa: ARG002
        source: Source,
        request: Any,  # noqa: ANN401  (its own)
    ) -> bool:
        """Whether a source is as it was when it was planned."""
        try:
            return self.stat(request) == source.stat
        except StorageError:
            return False

    def remarks(
        self,
        run: RunDirectory,  # noqa: ARG002
        slide: str,  # noqa: ARG002
        request: Any,  # noqa: ANN401, ARG002  (its own)
    ) -> list[str]:
        """Sentences on what is odd about an indexed slide that is worked on."""
        return []

    @abstractmethod
    def load(self, run: RunDirectory, plan: UnitPlan) -> Unit:
        """A unit that is ready to be read.

        Raises:
            StorageError: The source cannot be read, or has changed.
        """

    def refuse_changed(self, unit: Unit) -> None:
        """Refuse what was read if the source is not as it was planned any more.

        Raises:
            StorageError: It has changed, or is gone.
        """
        if self.stat(unit.source) != unit.source.stat:
            message = f"{unit.source.uri} has changed since it was indexed: run again"
            raise StorageError(message)

    @abstractmethod
    def moved(
        self, roots: Sequence[str], sources: Mapping[str, Source]
    ) -> dict[str, str]:
        """Where sources of this kind are below other folders, by slide.

        Raises:
            SourceError: A root is not there, or holds two of one name.
        """

    def differs(self, source: Source, uri: str) -> bool:  # noqa: ARG002
        """Whether tiles found again may be others than those of the rows."""
        return False

    def broken(self, uri: str, frames: pa.Table) -> list[str]:  # noqa: ARG002
        """Which tiles' bytes are not what their checksums say, and why.

        Args:
            uri: Where the source is now.
            frames: The columns `frame` of rows.

        Raises:
            StorageError: The source cannot be read, or ends too early.
        """
        return []

    @abstractmethod
    def place(
        self, source: Source, uri: str, row: Mapping[str, Any], *, icc: bool
    ) -> Place:
        """Where a tile's pixels are.

        Args:
            source: The tile's.
            uri: Where it is now.
            row: The tile's reference.
            icc: Whether the run's colors were converted by the slides' profiles.

        Raises:
            MapError: The reference lacks what finds it again.
        """
