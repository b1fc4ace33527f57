"""Which slides there are: TFRecord files by their stem, and searching folders.

Folders of one tile size are called `<tile_px>px_<tile_um>um`, as Slideflow has it.
"""

import logging
import os
import re
from collections import Counter
from collections.abc import Callable, Container, Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path, PurePosixPath

from raylatent.errors import SourceError, StorageError
from raylatent.run import RUN_JSON
from raylatent.source.picture import PICTURE_SUFFIXES, is_picture
from raylatent.source.record import without_ending
from raylatent.storage import (
    NOT_SEEN,
    FileStat,
    Store,
    absolute,
    is_uri,
    list_files,
    list_stats,
)

logger = logging.getLogger(__name__)

# Why files in a folder of pictures are left alone: of several, and of one.
NO_FIT = "do not fit the pattern"
_NO_PICTURE = "are no pictures"
_IN_RUN = "lie in run directories"
_HIDDEN = "lie in hidden folders"
_LINK = "lead out of the folder"
_OF_ONE = {
    _NO_PICTURE: "is no picture",
    _IN_RUN: "lies in a run directory",
    _HIDDEN: "lies in a hidden folder",
    NO_FIT: "does not fit the pattern",
}
_THUMBNAILS = "@eaDir"  # of a Synology store
_COMPRESSED = frozenset({"gz", "gzip", "zlib", "bz2", "xz", "zst", "zip"})
_FOLDER = re.compile(r"^(\d+)px_(.+)$")
_FOLDER_UM = re.compile(r"^\d+px_(\d+(?:\.\d+)?)um$", re.IGNORECASE)


def find_tfrecords(paths: Sequence[str], *, below: str | None = None) -> dict[str, str]:
    """Slide names and the files that hold them, sorted by name.

    Args:
        paths: Files, folders (searched recursively for `*.tfrecords` and
            `*.tfrecord`; macOS's `._*` are passed over, compressed ones are said) or
            URIs of either.
        below: Only files that have a folder of this name above them.

    Raises:
        SourceError: A path is not there or holds none, or two files have one stem
            (one file on two ways is one file).
    """

    def wanted(files: list[str]) -> list[str]:
        own = [f for f in files if below is None or below in f.split("/")[:-1]]
        _say_compressed(own)
        return [file for file in own if is_tfrecord(file)]

    found: dict[str, str] = {}
    for path in paths:
        for file in search(path, wanted, "*.tfrecords or *.tfrecord file"):
            add(found, slide_name(file), file)
    return dict(sorted(found.items()))


def add(found: dict[str, str], slide: str, uri: str) -> None:
    """Note where a slide is.

    Raises:
        SourceError: Another source has the same name.
    """
    other = found.setdefault(slide, uri)
    if other != uri and not _same_file(other, uri):
        message = (
            f"two slides are called {slide!r}, {other} and {uri}: a slide's name is the "
            "file's stem, or the folder's name, or what --tiles-pattern finds, rename one"
        )
        raise SourceError(message)


def search(path: str, wanted: Callable[[list[str]], list[str]], what: str) -> list[str]:
    """Sources at a path: itself where it is a file, else those in the folder.

    Args:
        path: A file, a folder or a URI.
        wanted: Picks the sources out of all files below a folder.
        what: They are, for the message that there is none.

    Raises:
        SourceError: The path is not there, or holds none.
    """
    try:
        files = list_files(path)
    except StorageError as error:
        message = f"{path} cannot be searched: {error}"
        raise SourceError(message) from error
    if files is None:
        message = f"no such file or folder: {path}"
        raise SourceError(message)
    if files == [absolute(path)]:  # named itself, whatever its ending
        if is_picture(path) and not wanted(files):
            folder = path.rpartition("/")[0] or "."
            message = (
                f"{path} is a picture, no {what}: if pictures are tiles, give their "
                f"folder, --tiles {folder}"
            )
            raise SourceError(message)
        return files
    found, files = files, wanted(files)
    if not files:
        message = (
            f"{path} holds no {what} ({_instead(found)}): give the folder that does"
        )
        if any(is_picture(file) for file in found):
            message += ", or --tiles for folders of pictures that are tiles"
        raise SourceError(message)
    for file in files:
        if not_utf8(file):
            message = f"the name of {file!r} is not in UTF-8: rename the file"
            raise SourceError(message)
    return files


def below(
    roots: Sequence[str],
    needed: Container[str],
    *,
    find: Callable[[Sequence[str]], dict[str, str]],
    suffixes: tuple[str, ...],
    name_of: Callable[[str], str],
    may_lack: bool,
) -> dict[str, str]:
    """Sources of one kind by slide; what is wrong with others than the needed is no matter.

    Args:
        roots: Files and folders.
        needed: Slides that are looked for.
        find: Finds all, see `find_tfrecords`.
        suffixes: Of the files.
        name_of: The slide of a file.
        may_lack: A folder that holds none of this kind is fine.

    Raises:
        SourceError: A root is not there or holds none, or two have one name.
    """

    def at(path: str) -> list[str]:
        listed = list_files(path)
        files = [f for f in listed or [] if f.lower().endswith(suffixes)]
        if not files and (listed is None or not may_lack):
            return [path]  # `find` is to refuse it
        names = ((file, file.rsplit("/", 1)[-1]) for file in files)
        return [
            file
            for file, name in names
            if name_of(file) in needed and not name.startswith("._")
        ]

    try:
        return find(roots)
    except SourceError:
        return find([file for path in roots for file in at(path)])


def _instead(files: Sequence[str]) -> str:
    """In words, of what kinds a folder's files are."""
    endings = Counter(PurePosixPath(file).suffix.lower() or "no" for file in files)
    if not endings:
        return "it has no file at all"
    kinds = ", ".join(f"{n} {ending}" for ending, n in endings.most_common(3))
    return f"its files by ending: {kinds}"


def _say_compressed(files: Sequence[str]) -> None:
    """TFRecords that are left out since they are compressed, unless they are there."""
    stems = {file: file.rpartition(".")[0] for file in files if _is_compressed(file)}
    there = set(files) if stems else set()
    packed = [file for file, stem in stems.items() if stem not in there]
    if packed:
        logger.warning(
            "%d TFRecords are compressed and left out, as %r: unpack them (gunzip), "
            "since tiles are read from anywhere in a file",
            *(len(packed), packed[0]),
        )


def _is_compressed(file: str) -> bool:
    stem, _, ending = file.rpartition(".")
    return ending.lower() in _COMPRESSED and is_tfrecord(stem)


def not_utf8(file: str) -> bool:
    """Whether a name cannot be written down."""
    try:
        file.encode()
    except UnicodeEncodeError:
        return True
    return False


def _same_file(one: str, other: str) -> bool:
    """Whether two local paths lead to one file, through links."""
    if is_uri(one) or is_uri(other):
        return False
    try:
        return Path(one).samefile(other)
    except OSError:  # one is not there
        return False


def is_tfrecord(file: str) -> bool:
    """Whether a file is called as a TFRecord; macOS's `._*` are none."""
    name = file.rsplit("/", 1)[-1]
    return without_ending(name) is not None and not name.startswith("._")


def slide_name(file: str) -> str:
    """A TFRecord file's stem.

    >>> slide_name("/data/TCGA-01.v2.tfrecords")
    'TCGA-01.v2'
    """
    name = file.rsplit("/", 1)[-1]
    stem = without_ending(name)
    return name if stem is None else stem


def folder_uri(path: str) -> str:
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


def refuse_nested(roots: Mapping[str, str]) -> None:
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


def files_below(path: str, uri: str) -> dict[str, FileStat]:
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


def pictures_among(
    files: Mapping[str, FileStat],
) -> tuple[list[str], dict[str, list[str]]]:
    """The pictures among files, sorted, and the others by why they are left alone."""
    ends = (name.rpartition("/") for name in files if name.endswith(RUN_JSON))
    runs = {folder for folder, _, file in ends if file == RUN_JSON}
    why_folder = lru_cache(maxsize=None)(partial(_why_folder_is_left, runs))
    taken: list[str] = []
    left: dict[str, list[str]] = {}
    for name in sorted(files):
        if files[name] is NOT_SEEN:
            why = _LINK
        else:
            why = why_folder(name.rpartition("/")[0])
            why = why or ("" if is_picture(name) else _NO_PICTURE)
        (left.setdefault(why, []) if why else taken).append(name)
    return taken, left


def _why_folder_is_left(runs: Container[str], folder: str) -> str:
    """Why pictures in a folder are no tiles, empty where they are."""
    parts = folder.split("/")
    if any("/".join(parts[:n]) in runs for n in range(len(parts) + 1)):
        return _IN_RUN
    if any(part.startswith(".") or part == _THUMBNAILS for part in parts):
        return _HIDDEN
    return ""


def left_in_words(path: str, left: Mapping[str, Sequence[str]]) -> list[str]:
    """Sentences on what is left alone below a folder, each with one of the names."""
    links = left.get(_LINK, ())
    others = {why: names for why, names in left.items() if names and why != _LINK}
    said = [
        f"{len(names)} {why}, as {names[0]!r}"
        if len(names) > 1
        else f"1 {_OF_ONE[why]}, {names[0]!r}"
        for why, names in others.items()
    ]
    found = []
    if said:
        found = [f"of the files below {path} are left alone: {'; '.join(said)}"]
    if links:
        many = f"{len(links)} links lead out of {path} and are not followed"
        one = f"1 link leads out of {path} and is not followed, {links[0]!r}"
        found.append(f"{many}, as {links[0]!r}" if len(links) > 1 else one)
    return found


def no_picture(
    path: str, files: Mapping[str, FileStat], left: Mapping[str, Sequence[str]]
) -> str:
    """The sentence on a folder which holds no picture that is taken."""
    there = sorted(name for name, one in files.items() if one is not NOT_SEEN)
    message = f"{path} holds no picture ({', '.join(PICTURE_SUFFIXES)})"
    others = {why: names for why, names in left.items() if why != _NO_PICTURE}
    return "; ".join([message, _instead(there), *left_in_words(path, others)])


def size_folders(folder: str) -> list[str]:
    """Names of the folders of tile sizes that have TFRecords below them."""
    return sorted(
        {
            part
            for name in Store(folder).list()
            if without_ending(name) is not None
            for part in name.split("/")[:-1]
            if _FOLDER.match(part)
        }
    )


def choose_size(
    sizes: Sequence[str],
    tile_px: int | None,
    tile_um: float | str | None,
    *,
    where: str,
) -> str | None:
    """The folder of one tile size, None where no folder is named so.

    Raises:
        SourceError: None fits, or several do.
    """
    if not sizes:
        return None
    um = f"{tile_um:g}um" if isinstance(tile_um, int | float) else tile_um
    fitting = [
        size
        for size in sizes
        if (tile_px is None or size.startswith(f"{tile_px}px_"))
        and (um is None or size.lower().endswith(f"px_{um}".lower()))
    ]
    if len(fitting) != 1:
        asked = [f"tile_px={tile_px}"] * (tile_px is not None)
        asked += [f"tile_um={tile_um!r}"] * (um is not None)
        message = (
            f"{where} has {'several sizes' if fitting else 'no size'} of tiles for "
            f"{', '.join(asked) or 'no tile_px and tile_um'}: it has {', '.join(sizes)}"
        )
        raise SourceError(message)
    return fitting[0]


def tile_um_of(uri: str) -> float | None:
    """Side of the tiles in µm as a folder above the file tells, None where none does.

    >>> tile_um_of("/data/tfrecords/299px_302um/s.tfrecords"), tile_um_of("/data/s.tfrecords")
    (302.0, None)
    """
    for folder in reversed(uri.split("/")[:-1]):
        if found := _FOLDER_UM.match(folder):
            return float(found[1])
    return None
