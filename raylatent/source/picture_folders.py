"""Pictures in folders: which slides they are of, and what tells that they changed.

A slide is the first folder below the one that is given, or what a regular expression
finds in the paths. Pictures are in the order of their paths.
"""

import hashlib
import logging
import os
import re
from collections import Counter
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache, partial
from pathlib import PurePosixPath
from typing import ClassVar, Self

from raylatent.errors import ConfigError, SourceError, StorageError
from raylatent.run import RUN_JSON
from raylatent.source.find import add, not_utf8
from raylatent.source.picture import PICTURE_SUFFIXES, is_picture
from raylatent.source.protocol import Source
from raylatent.storage import (
    NOT_SEEN,
    FileStat,
    absolute,
    is_folder,
    is_uri,
    list_files,
    list_stats,
)

logger = logging.getLogger(__name__)

TILES = "tiles"
GROUPS = ("slide", "label", "x", "y")
FLAT = r"^[^/]+$"  # what lies in a folder itself
# Why files are left alone: of several, and of one.
_NO_PICTURE = "are no pictures"
_IN_RUN = "lie in run directories"
_HIDDEN = "lie in hidden folders"
_NO_FIT = "do not fit the pattern"
_LINK = "lead out of the folder"
_OF_ONE = {
    _NO_PICTURE: "is no picture",
    _IN_RUN: "lies in a run directory",
    _HIDDEN: "lies in a hidden folder",
    _NO_FIT: "does not fit the pattern",
}
_THUMBNAILS = "@eaDir"  # of a Synology store
_INT32 = range(-(1 << 31), 1 << 31)


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


@dataclass(frozen=True)
class Pattern:
    """What tells a slide's pictures, and their labels and places, from their paths.

    Attributes:
        regex: None: every picture, and nothing is told of it.
    """

    regex: "re.Pattern[str] | None"

    @classmethod
    @lru_cache(maxsize=64)
    def of(cls, text: str | None, what: str = "--tiles-pattern") -> "Pattern":
        """A regular expression with some of the groups `slide`, `label`, `x`, `y`.

        Args:
            text: The expression.
            what: It is, for messages.

        Raises:
            ConfigError: It is none, or has other groups, or only one of `x` and `y`.
        """
        if text is None:
            return cls(None)
        try:
            regex = re.compile(text)
        except re.error as error:
            message = f"{what} {text!r} is no regular expression: {error}"
            raise ConfigError(message) from error
        foreign = sorted(set(regex.groupindex) - set(GROUPS))
        if foreign:
            message = (
                f"{what} has a group {foreign[0]!r}: the groups are "
                f"{', '.join(GROUPS)}, as (?P<slide>...)"
            )
            raise ConfigError(message)
        if len({"x", "y"} & set(regex.groupindex)) == 1:
            message = (
                f"{what} {text!r} has one of the groups x and y: a place needs both"
            )
            raise ConfigError(message)
        return cls(regex)

    @classmethod
    def planned(cls, source: PicturesRequest | Source) -> "Pattern":
        """That of a source in the plan."""
        return cls.of(source.pattern, "the pattern in sources.parquet")

    def has(self, group: str) -> bool:
        """Whether there is such a group."""
        return self.regex is not None and group in self.regex.groupindex

    def group(self, name: str, group: str) -> str | None:
        """What a group finds in a path, None where it finds nothing."""
        match = self.regex.search(name) if self.regex and self.has(group) else None
        return None if match is None else match[group] or None

    def places(self, name: str) -> tuple[int | None, int | None]:
        """Center of a tile in level-0 pixels, x and y, where its path tells both.

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
        return (None, None) if None in found else (found[0], found[1])

    def by_slide(
        self, names: Sequence[str], folder: str
    ) -> dict[str | None, list[str]]:
        """Pictures of each slide, see `slide_of`; those that do not fit are left out.

        Of None are those in which the pattern finds no slide.
        """
        found: dict[str | None, list[str]] = {}
        for name in names:
            if self.regex is None or self.regex.search(name) is not None:
                found.setdefault(self.slide_of(name, folder), []).append(name)
        return found

    def slide_of(self, name: str, folder: str) -> str | None:
        """The slide of a picture that fits, None where the pattern finds none.

        Args:
            name: Its path below the folder.
            folder: The folder's own name, that of a slide whose pictures lie in it.
        """
        if self.has("slide"):
            return self.group(name, "slide")
        return name.partition("/")[0] if "/" in name else folder


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
    roots = {path: root_of(path) for path in paths}
    _refuse_nested(roots)
    places: dict[str, str] = {}
    found: dict[str, PicturesRequest] = {}
    for path, uri in roots.items():
        for request in _slides_of(path, uri, pattern):
            add(places, request.slide, request.uri)
            found[request.slide] = request
    return dict(sorted(found.items()))


def root_of(path: str) -> str:
    """The URI or absolute path of a folder, whose last part is its name.

    Raises:
        SourceError: It has no name.
    """
    uri = absolute(path).rstrip("/")
    if not is_uri(uri) and ".." in uri.split("/"):
        uri = os.path.realpath(uri).rstrip("/")
    if not uri:
        message = f"{path} is the whole file system: give a folder of pictures"
        raise SourceError(message)
    return uri


def _refuse_nested(roots: Mapping[str, str]) -> None:
    """Refuse a folder in another one that is given: its pictures would be taken twice."""
    real = {
        p: uri if is_uri(uri) else os.path.realpath(uri) for p, uri in roots.items()
    }
    for path, inner in real.items():
        for other, outer in real.items():
            if inner.startswith(f"{outer}/"):
                message = (
                    f"{path} lies in {other}, all of whose pictures are taken: give one "
                    "of them"
                )
                raise SourceError(message)


def _slides_of(path: str, uri: str, pattern: str | None) -> list[PicturesRequest]:
    find, own = Pattern.of(pattern), uri.rsplit("/", 1)[-1]
    files = _listed(path, uri)
    names, left = _taken(files)
    if not names:
        raise SourceError(_no_picture(path, files, left))
    groups = find.by_slide(names, "" if pattern is None else own)
    left[_NO_FIT] = len(names) - sum(map(len, groups.values()))
    if not groups:
        message = (
            f"--tiles-pattern {pattern!r} fits no picture below {path}: the first is "
            f"{names[0]!r}"
        )
        raise SourceError(message)
    for words in _in_words(path, left):
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


def _listed(path: str, uri: str) -> dict[str, FileStat]:
    """All files below a folder.

    Raises:
        SourceError: There is no such folder.
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
    return found


def _taken(files: Mapping[str, FileStat]) -> tuple[list[str], Counter[str]]:
    """The pictures among files, sorted, and how many others there are, by reason."""
    ends = (name.rpartition("/") for name in files if name.endswith(RUN_JSON))
    runs = {folder for folder, _, file in ends if file == RUN_JSON}
    why_folder = lru_cache(maxsize=None)(partial(_why_folder_is_left, runs))
    taken: list[str] = []
    left: Counter[str] = Counter()
    for name in sorted(files):
        if files[name] is NOT_SEEN:
            why = _LINK
        else:
            why = why_folder(name.rpartition("/")[0])
            why = why or ("" if is_picture(name) else _NO_PICTURE)
        if why:
            left[why] += 1
        else:
            taken.append(name)
    return taken, left


def _why_folder_is_left(runs: Container[str], folder: str) -> str:
    """Why pictures in a folder are no tiles, empty where they are."""
    parts = folder.split("/")
    if any("/".join(parts[:n]) in runs for n in range(len(parts) + 1)):
        return _IN_RUN
    if any(part.startswith(".") or part == _THUMBNAILS for part in parts):
        return _HIDDEN
    return ""


def _in_words(path: str, left: Mapping[str, int]) -> list[str]:
    """Sentences on what is left alone below a folder."""
    links = left.get(_LINK, 0)
    others = {why: n for why, n in left.items() if n and why != _LINK}
    said = [f"{n} {why if n > 1 else _OF_ONE[why]}" for why, n in others.items()]
    found = []
    if said:
        found = [f"of the files below {path} are left alone: {', '.join(said)}"]
    if links:
        many = f"{links} links lead out of {path} and are not followed"
        one = f"1 link leads out of {path} and is not followed"
        found.append(many if links > 1 else one)
    return found


def _no_picture(
    path: str, files: Mapping[str, FileStat], left: Mapping[str, int]
) -> str:
    there = sorted(name for name, one in files.items() if one is not NOT_SEEN)
    endings = Counter(PurePosixPath(name).suffix.lower() or "no" for name in there)
    kinds = ", ".join(f"{n} {ending}" for ending, n in endings.most_common(3))
    message = (
        f"{path} holds no picture ({', '.join(PICTURE_SUFFIXES)})"
        f"{f'; its files by ending: {kinds}' if kinds else ', and no file at all'}"
    )
    others = {why: n for why, n in left.items() if why != _NO_PICTURE}
    return "; ".join([message, *_in_words(path, others)])


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
    find = Pattern.of(pattern, "the pattern in sources.parquet")
    given = uri.rpartition("/")[0] if pattern is None else uri
    files = list_stats(uri, given or "/")
    if files is None:
        message = f"no such folder: {uri}"
        raise StorageError(message)
    names, _ = _taken(files)
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
    uris = [root_of(root) for root in roots]
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
