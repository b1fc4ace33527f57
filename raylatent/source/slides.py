"""Which whole slides there are, the files each is made of, and one that can be opened.

A slide is a file, and is called as its stem; with MIRAX the folder beside it belongs to
it. A DICOM slide is a folder of DICOM files, one series, and is called as the folder:
`*.dcm`, and files without an ending of letters (`IM0001`, a UID) that begin as DICOM does.
"""

import hashlib
import logging
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath

from raylatent.errors import ConfigError, SourceError, StorageError
from raylatent.source.find import add, search
from raylatent.source.staging import Staged, stage
from raylatent.storage import (
    FileStat,
    absolute,
    file_stat,
    is_uri,
    list_files,
    open_input,
    retry,
)

logger = logging.getLogger(__name__)

DICOM = ".dcm"
MIRAX = ".mrxs"
SLIDE_SUFFIXES = (
    ".bif",
    ".czi",
    DICOM,
    MIRAX,
    ".ndpi",
    ".scn",
    ".svs",
    ".svslide",
    ".tif",
    ".tiff",
    ".vms",
    ".vmu",
)
_DICOM_ENDINGS = frozenset({".dicom", ".dic", ".ima"})  # and none, or a UID's number
_DICOM_MARK, _DICOM_MARK_AT = b"DICM", 128
_DICOM_DIRECTORY = "dicomdir"  # begins as DICOM, and lists other files
_MOST_OPENED = 16  # of a folder that has no DICOM file among the first
_SCATTERED = (".vms", ".vmu")  # made of files that only their text names


@dataclass(frozen=True)
class LocalSlide:
    """A slide on this node.

    Attributes:
        path: What OpenSlide opens.
        staged: Keeps the node's copy, if it is one, as long as this is alive.
    """

    path: Path
    staged: Staged | None = None


def find_slides(paths: Sequence[str]) -> dict[str, str]:
    """Slide names and where they are, sorted by name.

    Args:
        paths: Slides, folders (searched recursively for files that OpenSlide may open;
            macOS's `._*` are passed over) or URIs of either. Of the files of a folder
            that have no ending the first 16 are looked into: if one is DICOM, the folder
            is a slide.

    Raises:
        SourceError: A path is not there or holds none, or two slides have one name.
    """
    found: dict[str, str] = {}
    for path in paths:
        for file in search(path, _slides, f"slide ({', '.join(SLIDE_SUFFIXES)})"):
            uri = _folder(file) if is_dicom(file) else file
            add(found, slide_name(uri), uri)
    return dict(sorted(found.items()))


def _slides(files: list[str]) -> list[str]:
    names = [(file, file.rsplit("/", 1)[-1]) for file in files]
    found = [
        file
        for file, name in names
        if _suffix(name) in SLIDE_SUFFIXES and not name.startswith("._")
    ]
    unnamed: dict[str, list[str]] = defaultdict(list)
    for file, name in names:
        if _may_be_dicom(name):
            unnamed[file[: -len(name)]].append(file)
    # One of a folder says that the folder is a slide.
    for inside in unnamed.values():
        found += islice(filter(is_dicom, inside[:_MOST_OPENED]), 1)
    return found


def is_dicom(file: str) -> bool:
    """Whether a file is DICOM: by its ending, or without one by how it begins."""
    if _suffix(file) == DICOM:
        return True
    if not _may_be_dicom(file.rsplit("/", 1)[-1]):
        return False
    try:
        with open_input(file) as opened:
            start = retry(
                lambda: opened.read_at(len(_DICOM_MARK), _DICOM_MARK_AT), f"read {file}"
            )
    except (ConfigError, StorageError) as error:
        logger.warning("it is not known whether %r is DICOM: %s", file, error)
        return False
    return bytes(start) == _DICOM_MARK


def _may_be_dicom(name: str) -> bool:
    """Whether a name leaves open what the file is: no ending, or that of a UID."""
    if name.startswith(".") or name.lower() == _DICOM_DIRECTORY:
        return False
    ending = _suffix(name)
    return not ending or ending[1:].isdigit() or ending in _DICOM_ENDINGS


def _suffix(file: str) -> str:
    return PurePosixPath(file.rsplit("/", 1)[-1]).suffix.lower()


def _folder(file: str) -> str:
    return absolute(file).rsplit("/", 1)[0]


def slide_name(path: str) -> str:
    """A slide's name: its file's stem, for DICOM its folder's name.

    >>> slide_name("/data/TCGA-01.v2.svs"), slide_name("/data/S-07/level0.dcm")
    ('TCGA-01.v2', 'S-07')
    """
    if _suffix(path) == DICOM:
        path = _folder(path)
    name = path.rstrip("/").rsplit("/", 1)[-1]
    return PurePosixPath(name).stem if _suffix(name) in SLIDE_SUFFIXES else name


def slide_files(uri: str) -> list[str]:
    """All files that make up a slide, sorted.

    Raises:
        StorageError: It is not there, or cannot be listed.
    """
    files = list_files(uri)
    if files == [absolute(uri)] and is_dicom(uri):
        uri = _folder(uri)
        files = list_files(uri)
    if files is None:
        message = f"no such slide: {uri}"
        raise StorageError(message)
    if files != [absolute(uri)]:
        folder = absolute(uri)
        return [
            file
            for file in files
            if file.rsplit("/", 1)[0] == folder and is_dicom(file)
        ]
    if _suffix(uri) == MIRAX:
        return files + (list_files(absolute(uri)[: -len(MIRAX)]) or [])
    return files


def slide_stat(uri: str) -> FileStat:
    """What tells whether a slide has changed: of all its files together.

    Raises:
        StorageError: It is not there.
    """
    stats = [file_stat(file) for file in slide_files(uri)]
    if not stats:
        message = f"no DICOM file in {uri}"
        raise StorageError(message)
    if len(stats) == 1:
        return stats[0]
    tags = [stat.etag for stat in stats if stat.etag is not None]
    return FileStat(
        size=sum(stat.size for stat in stats),
        mtime_ns=max((s.mtime_ns for s in stats if s.mtime_ns), default=None),
        etag=hashlib.blake2b(repr(tags).encode(), digest_size=16).hexdigest()
        if tags
        else None,
    )


def local_slide(uri: str) -> LocalSlide:
    """A slide as this node can open it; one at a URI is copied to its scratch.

    Raises:
        SourceError: It cannot be opened from a URI.
        StorageError: It is not there, or there is no room for the copy.
    """
    if not is_uri(absolute(uri)):
        path = Path(absolute(uri))
        return LocalSlide(_dicom_file(path) if path.is_dir() else path)
    if _suffix(uri) in _SCATTERED:
        message = f"{uri} is made of several files that only it names: copy them here"
        raise SourceError(message)
    files = slide_files(uri)
    staged = stage(files, slide_stat(uri))
    main = staged.folder / files[0].rsplit("/", 1)[-1]
    is_folder = files[0] != absolute(uri)
    return LocalSlide(_dicom_file(staged.folder) if is_folder else main, staged)


def _dicom_file(folder: Path) -> Path:
    """One file of a DICOM folder; OpenSlide finds the others of its series."""
    files = dicom_files(folder)
    if not files:
        message = f"{folder} is a folder without a DICOM file, no slide"
        raise SourceError(message)
    return files[0]


def dicom_files(folder: Path) -> list[Path]:
    """The DICOM files of a folder, the largest first."""
    files = [f for f in folder.iterdir() if f.is_file() and is_dicom(str(f))]
    return sorted(files, key=lambda file: (-file.stat().st_size, file.name))
