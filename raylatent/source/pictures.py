"""Folders of pictures as a kind of source: a picture is a tile."""

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, Self

import pyarrow as pa

from raylatent import schema
from raylatent.annotations import tidy
from raylatent.errors import ContentError, MapError, SourceError, StorageError
from raylatent.run import TILE_LABELS, RunDirectory
from raylatent.source.picture import FILE_FORMATS, MAX_BYTES, is_picture, open_image
from raylatent.source.picture_folders import (
    FLAT,
    TILES,
    Listing,
    Pattern,
    PicturesRequest,
    find_pictures,
    forget_listings,
    list_pictures,
    moved_folders,
)
from raylatent.source.protocol import (
    Chunk,
    Config,
    Content,
    Group,
    Kind,
    PlaceReader,
    Source,
    SourceTile,
    Unit,
    UnitPlan,
)
from raylatent.storage import (
    NOT_SEEN,
    FileStat,
    is_inside,
    is_uri,
    list_stats,
    look_at,
    open_input,
    retry,
)

_CHUNK_PICTURES = 8
_PROBED = 64  # pictures that are tried for the side of a tile


@dataclass(frozen=True, kw_only=True)
class PictureUnit(Unit):
    """Some pictures of one slide.

    Attributes:
        listing: They.
    """

    listing: Listing

    def __len__(self) -> int:
        """Number of tiles."""
        return len(self.listing.names)

    def chunks(self, opened: object = None) -> Iterator[Chunk]:  # noqa: ARG002
        """Some pictures each, read by whoever takes them."""
        for start in range(0, len(self), _CHUNK_PICTURES):
            stop = min(start + _CHUNK_PICTURES, len(self))
            yield Chunk(
                tiles=partial(self._tiles, range(start, stop)),
                n_bytes=sum(one.size for one in self.listing.stats[start:stop]),
                stage="read",
            )

    def _tiles(self, positions: Sequence[int]) -> Iterator[SourceTile]:
        find = Pattern.planned(self.source)
        for i in positions:
            name = self.listing.names[i]
            uri = f"{self.source.uri}/{name}"
            content = picture_bytes(uri, self.listing.stats[i].size)
            places = find.places(name)
            yield SourceTile(i, content, *places, formats=FILE_FORMATS)

    def part(self, start: int, stop: int) -> Self:
        """Pictures [start, stop) of the unit."""
        listing = self.listing.part(start, stop)
        return replace(self, first=self.first + start, listing=listing)

    def columns(self) -> dict[str, pa.Array]:
        """Paths, and the labels that they tell, as labels are compared everywhere."""
        find = Pattern.planned(self.source)
        told = (find.group(name, "label") for name in self.listing.names)
        labels = [None if label is None else tidy(label) or None for label in told]
        return {
            schema.NAME: pa.array(self.listing.names, pa.string()),
            schema.LABEL: pa.array(labels, pa.string()),
        }


def picture_bytes(uri: str, size: int | None = None) -> bytes | ContentError:
    """A picture's file; the error where it is too large for a tile.

    Args:
        uri: The file.
        size: Its bytes as it was listed.

    Raises:
        StorageError: It cannot be read, or has another size.
    """
    with open_input(uri) as file:
        there = file.size()
        if size is not None and there != size:
            message = f"{uri!r} has changed since it was listed: run again"
            raise StorageError(message)
        if there > MAX_BYTES:
            message = f"the file is too large: tiles have at most {MAX_BYTES} bytes"
            return ContentError(message, stage="read")
        return bytes(retry(lambda: file.read_at(there, 0), f"read {uri!r}"))


@dataclass(frozen=True, kw_only=True)
class PictureFile:
    """Where a chosen tile's picture is.

    Attributes:
        uri: The file.
        within: The folder that was given: links out of it are not followed.
    """

    uri: str
    within: str
    together: ClassVar[int] = 32
    formats: ClassVar[Sequence[str]] = FILE_FORMATS

    @property
    def file(self) -> tuple[str, ...]:
        """The folder: pictures near in it are read by one thread."""
        return (self.uri.rpartition("/")[0],)

    @property
    def order(self) -> tuple[str, ...]:
        """By name."""
        return (self.uri,)

    def reader(
        self,
        n_groups: int,  # noqa: ARG002
        turns: threading.Semaphore,  # noqa: ARG002
    ) -> PlaceReader:
        """What reads pictures."""
        return read_again


def read_again(
    group: Group,
    tile_px: int,  # noqa: ARG001  (files are read whole)
) -> Iterator[tuple[int, Content | str]]:
    """Chosen pictures' bytes, or why there are none."""
    for position, place in group:
        if not is_uri(place.uri) and not is_inside(place.uri, place.within):
            yield position, f"{place.uri!r} is a link out of {place.within!r}"
            continue
        try:
            yield position, picture_bytes(place.uri)
        except StorageError as error:
            yield position, str(error)


class PictureFolders(Kind):
    """Folders of pictures, see `source.protocol.Kind`."""

    name: ClassVar[str] = TILES

    def holds(self, files: Sequence[str]) -> bool:
        """Whether one is called as a picture."""
        return any(map(is_picture, files))

    def find(self, config: Config) -> dict[str, PicturesRequest]:
        """The slides of `--tiles`."""
        paths: Sequence[str] = getattr(config, self.name, ())
        return find_pictures(paths, _pattern_of(config)) if paths else {}

    def fields(self, config: Config, tile_px: int) -> dict[str, Any]:  # noqa: ARG002
        """The pattern: it decides of which slide a tile is, its place and label."""
        if not getattr(config, self.name, ()):
            return {}
        pattern = _pattern_of(config)
        labels = Pattern.of(pattern).has("label")
        return {self.name: {"pattern": pattern}, TILE_LABELS: labels}

    def tile_px(self, request: PicturesRequest) -> int | None:
        """Width of the first picture that can be opened."""
        problem = "there is none"
        for name in request.listing.names[:_PROBED]:
            content = picture_bytes(f"{request.uri}/{name}")
            try:
                if isinstance(content, ContentError):
                    raise content
                return open_image(content, FILE_FORMATS).width
            except ContentError as error:  # that tile's matter: the next may do
                problem = f"{name!r}: {error}"
        message = f"no picture of {request.uri!r} can be opened: {problem}"
        raise SourceError(message)

    def index(
        self,
        run: RunDirectory,  # noqa: ARG002  (nothing of a folder is kept there)
        slide: str,
        request: PicturesRequest,
        unit_tiles: int,
    ) -> tuple[Source, list[UnitPlan]]:
        """A slide's pictures and their units."""
        source = Source(
            source=0,
            slide=slide,
            kind=TILES,
            uri=request.uri,
            pattern=request.pattern,
            stat=NOT_SEEN,
            n_indexed=0,
        )
        listing = request.listing
        try:
            tile_px = self.tile_px(request)
        except StorageError as error:
            return replace(source, error=str(error)), []
        except SourceError:
            tile_px = None  # each of them is quarantined, with its reason
        n = len(listing.names)
        source = replace(source, stat=listing.stat, n_indexed=n, tile_px=tile_px)
        plans = [
            UnitPlan(
                source=source, unit=unit, first=first, count=min(unit_tiles, n - first)
            )
            for unit, first in enumerate(range(0, n, unit_tiles))
        ]
        return source, plans

    def stat(self, request: PicturesRequest | Source) -> FileStat:
        """Of all the slide's pictures: their paths, sizes and times."""
        if isinstance(request, Source):
            return list_pictures(request).stat
        names = request.listing.names
        return Listing(names, look_at([f"{request.uri}/{n}" for n in names])).stat

    def look_again(self) -> None:
        """Folders are listed anew."""
        forget_listings()

    def glimpse(self, request: PicturesRequest) -> PicturesRequest:
        """Its first picture."""
        return replace(request, listing=request.listing.part(0, 1))

    def is_unchanged(
        self,
        run: RunDirectory,  # noqa: ARG002
        source: Source,
        request: PicturesRequest,
    ) -> bool:
        """Whether the pictures that were found are those that were planned."""
        return request.listing.stat == source.stat

    def load(self, run: RunDirectory, plan: UnitPlan) -> PictureUnit:  # noqa: ARG002
        """The unit with the names of its pictures."""
        source, listing = plan.source, list_pictures(plan.source)
        if listing.stat != source.stat:
            message = (
                f"the pictures of slide {source.slide!r} in {source.uri!r} have changed "
                "since they were listed: run again"
            )
            raise StorageError(message)
        return PictureUnit(
            source=source,
            unit=plan.unit,
            first=plan.first,
            listing=listing.part(plan.first, plan.last),
        )

    def refuse_changed(self, unit: Unit) -> None:
        """Refuse what was read if one of the unit's pictures has changed."""
        if not isinstance(unit, PictureUnit):
            raise TypeError(unit)
        source, names = unit.source, unit.listing.names
        if is_uri(source.uri) and source.pattern in {None, FLAT}:
            # One listing of the slide's folder, instead of a request each.
            listed = list_stats(source.uri) or {}
            there = [listed.get(name, NOT_SEEN) for name in names]
        else:
            there = look_at([f"{source.uri}/{name}" for name in names])
        for name, one, now in zip(names, unit.listing.stats, there, strict=True):
            if now != one:
                uri = f"{source.uri}/{name}"
                message = f"{uri!r} has changed since it was listed: run again"
                raise StorageError(message)

    def moved(
        self, roots: Sequence[str], sources: Mapping[str, Source]
    ) -> dict[str, str]:
        """Folders of these slides below other folders."""
        return moved_folders(roots, sources)

    def differs(self, source: Source, uri: str) -> bool:
        """Whether pictures were added, changed or deleted since they were planned."""
        try:
            there = list_pictures(replace(source, uri=uri))
        except StorageError:
            return False  # which each tile says
        if uri == source.uri:
            return there.stat != source.stat
        # Copies have other times.
        now = len(there.names), there.stat.size
        return now != (source.n_indexed, source.stat.size)

    def place(
        self,
        source: Source,
        uri: str,
        row: Mapping[str, Any],
        *,
        icc: bool,  # noqa: ARG002
    ) -> PictureFile:
        """The file."""
        name = row[schema.NAME]
        if name is None or name.startswith("/") or ".." in name.split("/"):
            message = f"a tile of slide {source.slide!r} has no path of a picture"
            raise MapError(message)
        given = uri.rpartition("/")[0] if source.pattern is None else uri
        return PictureFile(uri=f"{uri}/{name}", within=given or "/")


def _pattern_of(config: Config) -> str | None:
    return getattr(config, "tiles_pattern", "") or None
