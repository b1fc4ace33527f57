"""Which slides there are: TFRecord files by their stem."""

from collections.abc import Sequence
from pathlib import Path

from raylatent.errors import SourceError, StorageError
from raylatent.source.framing import SUFFIXES
from raylatent.storage import absolute, is_uri, list_files


def find_tfrecords(paths: Sequence[str], *, below: str | None = None) -> dict[str, str]:
    """Slide names and the files that hold them, sorted by name.

    Args:
        paths: Files, folders (searched recursively for `*.tfrecords` and
            `*.tfrecord`; macOS's `._*` are passed over) or URIs of either.
        below: Only files that have a folder of this name above them.

    Raises:
        SourceError: A path is not there or holds none, or two files have one stem
            (one file on two ways is one file).
    """
    found: dict[str, str] = {}
    for path in paths:
        for file in _files(path, below):
            slide = slide_name(file)
            other = found.setdefault(slide, file)
            if other != file and not _same_file(other, file):
                message = (
                    f"two files are called {slide!r}, {other} and {file}: the slide's "
                    "name is the file's stem, rename one"
                )
                raise SourceError(message)
    return dict(sorted(found.items()))


def _files(path: str, below: str | None) -> list[str]:
    """TFRecords at a path: itself, or those in the folder."""
    try:
        files = list_files(path)
    except StorageError as error:
        message = f"{path} cannot be searched for TFRecords: {error}"
        raise SourceError(message) from error
    if files is None:
        message = f"no such file or folder: {path}"
        raise SourceError(message)
    if files == [absolute(path)]:  # named itself, whatever its ending
        return files
    files = [
        file
        for file in files
        if _is_tfrecord(file) and (below is None or below in file.split("/")[:-1])
    ]
    if not files:
        message = (
            f"{path} holds no *.tfrecords or *.tfrecord file: give the folder that does"
        )
        raise SourceError(message)
    for file in files:
        if _not_utf8(file):
            message = f"the name of {file!r} is not in UTF-8: rename the file"
            raise SourceError(message)
    return files


def _not_utf8(file: str) -> bool:
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


def _is_tfrecord(file: str) -> bool:
    name = file.rsplit("/", 1)[-1]
    return name.endswith(SUFFIXES) and not name.startswith("._")


def slide_name(file: str) -> str:
    """A TFRecord file's stem.

    >>> slide_name("/data/TCGA-01.v2.tfrecords")
    'TCGA-01.v2'
    """
    name = file.rsplit("/", 1)[-1]
    for suffix in SUFFIXES:
        if name.endswith(suffix):
            return name.removesuffix(suffix)
    return name
