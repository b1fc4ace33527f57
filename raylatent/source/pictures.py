"""Folders of pictures as a kind of source: a picture is a tile.

A slide is the first folder below the one that is given, or what a regular expression
finds in the paths. Tiles are in the order of their paths.
"""

import hashlib
import logging
import re
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import PurePosixPath
from typing import Any, ClassVar, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raylatent import schema
from raylatent.errors import (
    ConfigError,
    ContentError,
    MapError,
    SourceError,
    StorageError,
)
from raylatent.run import TILE_LABELS, RunDirectory
from raylatent.source.find import add
from raylatent.source.picture import (
    FILE_FORMATS,
    MAX_BYTES,
    PICTURE_SUFFIXES,
    is_picture,
    open_image,
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
    absolute,
    file_stat,
    is_uri,
    list_files,
    list_stats,
    open_input,
    retry,
)

logger = logging.getLogger(__name__)

TILES = "tiles"
GROUPS = ("slide", "label", "x", "y")
_FLAT = r"^[^/]+$"  # what lies in a folder itself
_CHUNK_PICTURES = 8
_INT32 = range(-(1 << 31), 1 << 31)
_PROBED = 64  # pictures that are tried for the side of a tile


@dataclass(frozen=True, kw_only=True)
class PicturesRequest:
    """A slide's pictures as an invocation names them.

    Attributes:
        slide: The slide's name.
        uri: The folder.
        pattern: See Source.
    """

    slide: str
    uri: str
    pattern: str | None = None
    kind: ClassVar[str] = TILES

    def sized(self, tile_px: int) -> Self:  # noqa: ARG002  (pictures tell)
        """The same."""
        return self


@dataclass(frozen=True)
class Listing:
    """Pictures of one slide, by path.

    Attributes:
        names: Paths below the folder, sorted.
        sizes: Bytes of each, (n,) int64.
        mtimes: Modification times in ns since 1970, (n,) int64; 0 where not known.
    """

    names: Sequence[str]
    sizes: NDArray[np.int64]
    mtimes: NDArray[np.int64]

    @property
    def stat(self) -> FileStat:
        """What tells whether a picture was added, changed, renamed or deleted."""
        digest = hashlib.blake2b(digest_size=16)
        for name in self.names:
            digest.update(name.encode() + b"\0")
        digest.update(self.sizes.tobytes() + self.mtimes.tobytes())
        return FileStat(
            size=int(self.sizes.sum()),
            mtime_ns=int(self.mtimes.max(initial=0)) or None,
            etag=digest.hexdigest(),
        )

    def part(self, start: int, stop: int) -> "Listing":
        """Pictures [start, stop)."""
        some = slice(start, stop)
        return Listing(self.names[some], self.sizes[some], self.mtimes[some])


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
                n_bytes=int(self.listing.sizes[start:stop].sum()),
                stage="read",
            )

    def _tiles(self, positions: Sequence[int]) -> Iterator[SourceTile]:
        find = Pattern.of(self.source.pattern)
        for i in positions:
            name = self.listing.names[i]
            content = picture_bytes(
                f"{self.source.uri}/{name}", int(self.listing.sizes[i])
            )
            places = find.places(name)
            yield SourceTile(i, content, *places, formats=FILE_FORMATS)

    def part(self, start: int, stop: int) -> Self:
        """Pictures [start, stop) of the unit."""
        listing = self.listing.part(start, stop)
        return replace(self, first=self.first + start, listing=listing)

    def columns(self) -> dict[str, pa.Array]:
        """Paths, and what they tell of labels."""
        find = Pattern.of(self.source.pattern)
        labels = [find.group(name, "label") for name in self.listing.names]
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
            message = f"{uri} has changed since it was listed: run again"
            raise StorageError(message)
        if there > MAX_BYTES:
            message = f"the file is too large: tiles have at most {MAX_BYTES} bytes"
            return ContentError(message, stage="read")
        return bytes(retry(lambda: file.read_at(there, 0), f"read {uri}"))


@dataclass(frozen=True)
class Pattern:
    """What tells a slide's pictures, and their labels and places, from their paths.

    Attributes:
        regex: None: every picture, and nothing is told of it.
    """

    regex: "re.Pattern[str] | None"

    @classmethod
    @lru_cache(maxsize=64)
    def of(cls, text: str | None) -> "Pattern":
        """A regular expression with some of the groups `slide`, `label`, `x`, `y`.

        Raises:
            ConfigError: It is none, or has other groups.
        """
        if text is None:
            return cls(None)
        try:
            regex = re.compile(text)
        except re.error as error:
            message = f"--tiles-pattern {text!r} is no regular expression: {error}"
            raise ConfigError(message) from error
        foreign = sorted(set(regex.groupindex) - set(GROUPS))
        if foreign:
            message = (
                f"--tiles-pattern has a group {foreign[0]!r}: the groups are "
                f"{', '.join(GROUPS)}, as (?P<slide>...)"
            )
            raise ConfigError(message)
        return cls(regex)

    def has(self, group: str) -> bool:
        """Whether there is such a group."""
        return self.regex is not None and group in self.regex.groupindex

    def group(self, name: str, group: str) -> str | None:
        """What a group finds in a path, None where it finds nothing."""
        match = self.regex.search(name) if self.regex and self.has(group) else None
        return None if match is None else match[group] or None

    def places(self, name: str) -> tuple[int | None, int | None]:
        """Center of a tile in level-0 pixels, x and y, as far as its path tells.

        Raises:
            SourceError: It is no integer of 32 bits.
        """
        found: list[int | None] = []
        for axis in "xy":
            text = self.group(name, axis)
            if text is not None and not (
                re.fullmatch(r"[+-]?[0-9]+", text) and int(text) in _INT32
            ):
                message = (
                    f"--tiles-pattern finds {axis}={text!r} in {name!r}, which is no "
                    "whole number of level-0 pixels"
                )
                raise SourceError(message)
            found.append(None if text is None else int(text))
        return found[0], found[1]

    def slide_of(self, name: str, folder: str) -> str | None:
        """The slide of a picture, None where the pattern does not fit or find one.

        Args:
            name: Its path below the folder.
            folder: The folder's own name, that of a slide whose pictures lie in it.
        """
        if self.regex is not None and self.regex.search(name) is None:
            return None
        if self.has("slide"):
            return self.group(name, "slide")
        return name.partition("/")[0] if "/" in name else folder


def find_pictures(
    paths: Sequence[str], pattern: str | None = None
) -> dict[str, PicturesRequest]:
    """Slides and their pictures, sorted by name.

    Args:
        paths: Folders or URIs of such.
        pattern: Finds the slide, and more, in paths below a folder; None: a slide is
            the first folder below, or the folder itself.

    Raises:
        ConfigError: The pattern makes no sense.
        SourceError: A folder is not there or holds no picture, the pattern fits none,
            or two slides have one name.
    """
    places: dict[str, str] = {}
    found: dict[str, PicturesRequest] = {}
    for path in paths:
        for request in _slides_of(path, Pattern.of(pattern), pattern):
            add(places, request.slide, request.uri)
            found[request.slide] = request
    return dict(sorted(found.items()))


def _slides_of(path: str, find: Pattern, pattern: str | None) -> list[PicturesRequest]:
    uri = absolute(path).rstrip("/")
    names = _listed(path, uri)
    pictures = [name for name in names if is_picture(name)]
    if not pictures:
        endings = Counter(PurePosixPath(n).suffix.lower() or "no" for n in names)
        kinds = ", ".join(f"{n} {ending}" for ending, n in endings.most_common(3))
        message = (
            f"{path} holds no picture ({', '.join(PICTURE_SUFFIXES)})"
            f"{f'; its files by ending: {kinds}' if kinds else ', and no file at all'}"
        )
        raise SourceError(message)
    _say_left_alone(path, len(names) - len(pictures), "are no pictures")
    own = uri.rsplit("/", 1)[-1]
    if find.regex is None:
        folders = dict.fromkeys(n.partition("/")[0] for n in pictures if "/" in n)
        inside = [PicturesRequest(slide=f, uri=f"{uri}/{f}") for f in folders]
        if all("/" in name for name in pictures):
            return inside
        return [PicturesRequest(slide=own, uri=uri, pattern=_FLAT), *inside]
    fitting = [name for name in pictures if find.regex.search(name)]
    if not fitting:
        message = (
            f"--tiles-pattern {pattern!r} fits no picture below {path}: the first is "
            f"{pictures[0]!r}"
        )
        raise SourceError(message)
    _say_left_alone(path, len(pictures) - len(fitting), f"do not fit {pattern!r}")
    found: dict[str, None] = {}
    for name in fitting:
        slide = find.slide_of(name, own)
        if slide is None:
            message = f"--tiles-pattern {pattern!r} finds no slide in {name!r}"
            raise SourceError(message)
        find.places(name)  # which must be numbers
        found[slide] = None
    return [PicturesRequest(slide=slide, uri=uri, pattern=pattern) for slide in found]


def _listed(path: str, uri: str) -> list[str]:
    """Paths of all files below a folder.

    Raises:
        SourceError: There is no such folder, or a name is not in UTF-8.
    """
    try:
        found = list_stats(uri)
    except StorageError as error:
        message = f"{path} cannot be searched: {error}"
        raise SourceError(message) from error
    if found is None:
        message = f"no such folder: {path}"
        if list_files(path) is not None:
            folder = path.rstrip("/").rpartition("/")[0] or "."
            message = (
                f"{path} is a file: --tiles takes folders of pictures, as {folder}"
            )
        raise SourceError(message)
    for name in found:
        try:
            name.encode()
        except UnicodeEncodeError as error:
            message = f"the name of {name!r} below {path} is not in UTF-8: rename it"
            raise SourceError(message) from error
    return sorted(found)


def _say_left_alone(path: str, n: int, why: str) -> None:
    if n:
        logger.warning("%d files below %s %s and are left alone", n, path, why)


def list_pictures(source: PicturesRequest | Source) -> Listing:
    """A slide's pictures as they are now.

    Raises:
        StorageError: The folder is not there, or cannot be listed.
    """
    found = list_stats(source.uri)
    if found is None:
        message = f"no such folder: {source.uri}"
        raise StorageError(message)
    find, own = Pattern.of(source.pattern), source.uri.rsplit("/", 1)[-1]
    every = find.regex is None
    names = sorted(
        name
        for name in found
        if is_picture(name) and (every or find.slide_of(name, own) == source.slide)
    )
    return Listing(
        names,
        np.array([found[name].size for name in names], np.int64),
        np.array([found[name].mtime_ns or 0 for name in names], np.int64),
    )


@lru_cache(maxsize=4)
def _listing(uri: str, slide: str, pattern: str | None, stat: FileStat) -> Listing:
    """The listing of a slide that was planned; a worker reads several of its units.

    Raises:
        StorageError: It is not as it was planned.
    """
    found = list_pictures(PicturesRequest(slide=slide, uri=uri, pattern=pattern))
    if found.stat != stat:
        message = (
            f"the pictures in {uri} have changed since they were listed: run again"
        )
        raise StorageError(message)
    return found


@dataclass(frozen=True, kw_only=True)
class PictureFile:
    """Where a chosen tile's picture is.

    Attributes:
        uri: The file.
    """

    uri: str
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
        for name in list_pictures(request).names[:_PROBED]:
            content = picture_bytes(f"{request.uri}/{name}")
            try:
                if isinstance(content, ContentError):
                    raise content
                return open_image(content, FILE_FORMATS).width
            except ContentError as error:  # that tile's matter: the next may do
                problem = f"{name}: {error}"
        message = f"no picture of {request.uri} can be opened: {problem}"
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
        try:
            listing = list_pictures(request)
            if not listing.names:
                return replace(source, error=f"{request.uri} has no picture"), []
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
        return list_pictures(request).stat

    def load(self, run: RunDirectory, plan: UnitPlan) -> PictureUnit:  # noqa: ARG002
        """The unit with the names of its pictures."""
        source = plan.source
        listing = _listing(source.uri, source.slide, source.pattern, source.stat)
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
        source = unit.source
        if is_uri(source.uri):  # one listing, instead of a request each
            there = list_stats(source.uri) or {}
        else:
            there = {n: file_stat(f"{source.uri}/{n}") for n in unit.listing.names}
        listed = unit.listing
        for name, size, mtime in zip(
            listed.names, listed.sizes, listed.mtimes, strict=True
        ):
            found = there.get(name, NOT_SEEN)
            if (found.size, found.mtime_ns or 0) != (size, mtime):
                message = (
                    f"{source.uri}/{name} has changed since it was listed: run again"
                )
                raise StorageError(message)

    def moved(
        self, roots: Sequence[str], sources: Mapping[str, Source]
    ) -> dict[str, str]:
        """Folders of these slides below other folders, by the names that they had."""
        found: dict[str, str] = {}
        for root in roots:
            uri = absolute(root)
            if list_files(uri) is None:
                message = f"no such file or folder: {root}"
                raise SourceError(message)
            for slide, source in sources.items():
                own = source.uri.rsplit("/", 1)[-1]
                if uri.rsplit("/", 1)[-1] == own:
                    found.setdefault(slide, uri)
                elif list_stats(f"{uri}/{own}") is not None:
                    found.setdefault(slide, f"{uri}/{own}")
                elif source.pattern is not None:  # the given folder, under a new name
                    found.setdefault(slide, uri)
        return found

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
        return PictureFile(uri=f"{uri}/{name}")


def _pattern_of(config: Config) -> str | None:
    return getattr(config, "tiles_pattern", "") or None
