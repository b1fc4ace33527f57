"""Folders of pictures as a kind of source: a picture is a tile.

A slide is the first folder below the one that is given, or what a regular expression
finds in the paths. Pictures are in the order of their paths.
"""

import hashlib
import logging
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache, partial
from typing import Any, ClassVar, Self

import pyarrow as pa

from raylatent import schema
from raylatent.annotations import tidy
from raylatent.errors import ContentError, MapError, SourceError, StorageError
from raylatent.run import TILE_LABELS, RunDirectory
from raylatent.source.find import (
    NO_FIT,
    add,
    files_below,
    folder_uri,
    left_in_words,
    no_picture,
    not_utf8,
    pictures_among,
    refuse_nested,
)
from raylatent.source.names import Pattern
from raylatent.source.picture import FILE_FORMATS, MAX_BYTES, is_picture, open_image
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
    is_folder,
    is_inside,
    is_uri,
    list_files,
    list_stats,
    look_at,
    open_input,
    retry,
)

logger = logging.getLogger(__name__)

TILES = "tiles"
FLAT = r"^[^/]+$"  # what lies in a folder itself
_IN_PLAN = "the pattern in sources.parquet"
_CHUNK_PICTURES = 8
_PROBED = 64  # pictures that are tried for the side of a tile


@dataclass(frozen=True)
class Listing:
    """Pictures of one slide, by path.

    Attributes:
        names: Paths below the folder, sorted.
        stats: Size, time and tag of each.
    """

    names: Sequence[str] = ()
    stats: Sequence[FileStat] = ()

    @cached_property
    def stat(self) -> FileStat:
        """What tells whether a picture was added, changed, renamed or deleted."""
        digest = hashlib.blake2b(digest_size=16)
        for name, one in zip(self.names, self.stats, strict=True):
            about = f"\0{one.size}\0{one.mtime_ns}\0{one.etag}\0"
            digest.update(name.encode("utf-8", "surrogateescape") + about.encode())
        return FileStat(
            size=sum(one.size for one in self.stats),
            mtime_ns=max((s.mtime_ns for s in self.stats if s.mtime_ns), default=None),
            etag=digest.hexdigest(),
        )

    def part(self, start: int, stop: int) -> "Listing":
        """Pictures [start, stop)."""
        return Listing(self.names[start:stop], self.stats[start:stop])


@dataclass(frozen=True, kw_only=True)
class PicturesRequest:
    """A slide's pictures as an invocation names and finds them.

    Attributes:
        slide: The slide's name.
        uri: The folder.
        pattern: See Source.
        listing: The pictures.
    """

    slide: str
    uri: str
    pattern: str | None = None
    listing: Listing = field(default=Listing(), compare=False, repr=False)
    kind: ClassVar[str] = TILES

    def sized(self, tile_px: int) -> Self:  # noqa: ARG002  (pictures tell)
        """The same."""
        return self


def find_pictures(
    paths: Sequence[str], pattern: str | None = None
) -> dict[str, PicturesRequest]:
    """Slides and their pictures, sorted by name; each folder is listed once.

    Args:
        paths: Folders or URIs of such.
        pattern: Finds the slide, and more, in paths below a folder; None: a slide is
            the first folder below, or the folder itself.

    Raises:
        ConfigError: The pattern makes no sense.
        SourceError: A folder is not there, lies in another or holds no picture, the
            pattern fits none, or two slides have one name.
    """
    forget_listings()
    roots = {path: folder_uri(path) for path in paths}
    refuse_nested(roots)
    places: dict[str, str] = {}
    found: dict[str, PicturesRequest] = {}
    for path, uri in roots.items():
        for request in _slides_of(path, uri, pattern):
            add(places, request.slide, request.uri)
            found[request.slide] = request
    return dict(sorted(found.items()))


def _slides_of(path: str, uri: str, pattern: str | None) -> list[PicturesRequest]:
    find, own = Pattern.of(pattern), uri.rsplit("/", 1)[-1]
    files = files_below(path, uri)
    names, left = pictures_among(files)
    if not names:
        raise SourceError(no_picture(path, files, left))
    groups = find.by_slide(names, "" if pattern is None else own)
    left[NO_FIT] = _not_in(groups.values(), names)
    if not groups:
        message = (
            f"--tiles-pattern {pattern!r} fits no picture below {path}: the first is "
            f"{names[0]!r}"
        )
        raise SourceError(message)
    for words in left_in_words(path, left):
        logger.warning("%s", words)
    found = []
    for slide, some in groups.items():
        if slide is None:
            message = f"--tiles-pattern {pattern!r} finds no slide in {some[0]!r}"
            raise SourceError(message)
        for name in some:
            if not_utf8(name):
                message = (
                    f"the name of {name!r} below {path} is not in UTF-8: rename it"
                )
                raise SourceError(message)
            find.places(name)  # which must be numbers
        listing = Listing(some, [files[name] for name in some])
        request = PicturesRequest(
            slide=slide or own, uri=uri, pattern=pattern, listing=listing
        )
        if pattern is None and not slide:
            request = replace(request, pattern=FLAT)
        elif pattern is None:
            inside = [name.partition("/")[2] for name in some]
            listing = replace(listing, names=inside)
            request = replace(request, uri=f"{uri}/{slide}", listing=listing)
        found.append(request)
    return found


def _not_in(groups: Iterable[Sequence[str]], names: Sequence[str]) -> list[str]:
    fitting = [name for some in groups for name in some]
    if len(fitting) == len(names):
        return []
    there = set(fitting)
    return [name for name in names if name not in there]


def list_pictures(source: PicturesRequest | Source) -> Listing:
    """A slide's pictures; a folder is listed once for all its slides.

    That is when this process first asks, or asks after `forget_listings`.

    Raises:
        StorageError: The folder is not there, or cannot be listed.
    """
    return _held(source.uri, source.pattern).get(_key(source), Listing())


def forget_listings() -> None:
    """Folders are to be listed anew."""
    _held.cache_clear()


def _key(source: PicturesRequest | Source) -> str:
    return source.uri.rsplit("/", 1)[-1] if source.pattern is None else source.slide


def _by_slide(
    uri: str, pattern: str | None, own: str | None = None
) -> dict[str | None, Listing]:
    """Pictures below a source's folder by slide.

    Args:
        uri: The folder.
        pattern: See Source: without one it is a slide's, below the one that was given.
        own: The slide whose pictures lie in the folder itself (default: its name).
    """
    find = Pattern.of(pattern, _IN_PLAN)
    given = uri.rpartition("/")[0] if pattern is None else uri
    files = list_stats(uri, given or "/")
    if files is None:
        message = f"no such folder: {uri}"
        raise StorageError(message)
    names, _ = pictures_among(files)
    own = own or uri.rsplit("/", 1)[-1]
    every = pattern is None
    groups = {own: names} if every else find.by_slide(names, own)
    return {s: Listing(some, [files[n] for n in some]) for s, some in groups.items()}


_held = lru_cache(maxsize=32)(_by_slide)


def moved_folders(
    roots: Sequence[str], sources: Mapping[str, Source]
) -> dict[str, str]:
    """Folders of slides below other folders: by their names, or by what they hold.

    Raises:
        SourceError: A root is not there.
    """
    uris = [folder_uri(root) for root in roots]
    for root, uri in zip(roots, uris, strict=True):
        if not is_folder(uri) and list_files(uri) is None:
            message = f"no such file or folder: {root}"
            raise SourceError(message)
    is_there, by_slide = lru_cache(None)(is_folder), lru_cache(None)(_by_slide)
    found: dict[str, str] = {}
    for slide, source in sources.items():
        own = source.uri.rsplit("/", 1)[-1]
        places = [uri for uri in uris if uri.rsplit("/", 1)[-1] == own]
        places = [u for u in (*places, *(f"{u}/{own}" for u in uris)) if is_there(u)]
        if len(places) != 1:
            given = source.pattern is not None  # which may have a new name
            among = places or [uri for uri in uris if given and is_there(uri)]
            key = own if source.pattern is None else slide
            listed = {u: by_slide(u, source.pattern, own).get(key) for u in among}
            n = {u: len(one.names) for u, one in listed.items() if one is not None}
            places = sorted(filter(n.get, n), key=lambda u: n[u] != source.n_indexed)
        if places:
            found[slide] = places[0]
    return found


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
        find = _planned(self.source)
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
        find = _planned(self.source)
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


def _planned(source: Source) -> Pattern:
    return Pattern.of(source.pattern, _IN_PLAN)
