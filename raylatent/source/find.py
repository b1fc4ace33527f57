"""Which slides there are: TFRecord files by their stem."""

from collections.abc import Sequence
from pathlib import Path

from raylatent.errors import SourceError
from raylatent.source.tfrecord import SUFFIXES
from raylatent.storage import list_files


def find_tfrecords(
    paths: Sequence[str], *, below: str | None = None
) -> dict[str, str]:
    """Slide names and the files that hold them, sorted by name.

    Args:
        paths: Files, folders (searched recursively for `*.tfrecords` and
            `*.tfrecord`; macOS's `._*` are passed over) or URIs of either.
        below: Only files that have a folder of this name above them.

    Raises:
        SourceError: A path is not there or holds none, or two files have one stem.
    """
    found: dict[str, str] = {}
    for path in paths:
        files = list_files(path)
        if files is None:
            message = f"no such file or folder: {path}"
            raise SourceError(message)
        if files != [str(path)] and files != [str(Path(path).absolute())]:
            files = [
                name
                for name in files
                if _is_tfrecord(name)
                and (below is None or below in name.split("/")[:-1])
            ]
        if not files:
            message = f"{path} holds no *.tfrecords or *.tfrecord file"
            raise SourceError(message)
        for file in files:
            slide = slide_name(file)
            if found.setdefault(slide, file) != file:
                message = (
                    f"two files are called {slide!r}, {found[slide]} and {file}: "
                    "the slide's name is the file's stem, rename one"
                )
                raise SourceError(message)
    return dict(sorted(found.items()))


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
        name = name.removesuffix(suffix)
    return name
