"""Where a mosaic's TFRecords are, by slide or by source id."""

import os
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from raylatent.errors import SourceError
from raylatent.montage.slide_tiles import WholeSlide
from raylatent.source import slides
from raylatent.source.find import find_tfrecords, slide_name
from raylatent.source.tfrecord import SUFFIXES
from raylatent.storage import absolute, list_files

TFRecords = Mapping[str, str] | Mapping[int, str | WholeSlide] | Iterable[str] | str


@dataclass(frozen=True)
class Kind:
    """How sources of one kind are found below folders."""

    suffixes: tuple[str, ...]
    name_of: Callable[[str], str]
    find: Callable[[Sequence[str]], dict[str, str]]

    def below(
        self, paths: Sequence[str], needed: Container[str], *, may_lack: bool = False
    ) -> dict[str, str]:
        """By slide; what is wrong with others than the needed does not matter.

        Args:
            paths: Files and folders.
            needed: Slides that are looked for.
            may_lack: A folder that holds none of this kind is fine.

        Raises:
            SourceError: A path is not there or holds none, or two have one name.
        """
        try:
            return self.find(paths)
        except SourceError:
            found = [self._at(p, needed, may_lack=may_lack) for p in paths]
            return self.find([file for files in found for file in files])

    def _at(self, path: str, needed: Container[str], *, may_lack: bool) -> list[str]:
        """Files of some slides; the path itself where `find` is to refuse it."""
        listed = list_files(path)
        files = [f for f in listed or [] if f.lower().endswith(self.suffixes)]
        if not files and (listed is None or not may_lack):
            return [path]
        return [f for f in files if self.name_of(f) in needed and not _of_macos(f)]


TFRECORD_FILES = Kind(SUFFIXES, slide_name, find_tfrecords)
SLIDE_FILES = Kind(slides.SLIDE_SUFFIXES, slides.slide_name, slides.find_slides)


def tfrecord_uris(
    tfrecords: TFRecords, needed: Container[str] | None = None
) -> dict[str | int, str | WholeSlide]:
    """TFRecords by slide, or sources by id where that is how they were given.

    Args:
        tfrecords: As of `Mosaic`.
        needed: Slides that are looked for: what is wrong with others does not matter.
    """
    if isinstance(tfrecords, Mapping):
        return {
            key: uri if isinstance(uri, WholeSlide) else absolute(uri)
            for key, uri in tfrecords.items()
        }
    if isinstance(tfrecords, str | os.PathLike):
        tfrecords = [os.fspath(tfrecords)]
    paths = [os.fspath(path) for path in tfrecords]
    if needed is None:
        found = find_tfrecords(paths)
    else:
        found = TFRECORD_FILES.below(paths, needed)
    return {slide: absolute(uri) for slide, uri in found.items()}


def unknown(key: object, known: Mapping[str | int, str | WholeSlide]) -> str:
    """Says that a slide or source is not among those known."""
    if not isinstance(key, str):
        return f"tfrecords hold no source {key}: they have {few(map(str, known))}"
    near = get_close_matches(key, [str(name) for name in known], n=3)
    hint = f"near it are {few(near)}" if near else f"there are {few(map(str, known))}"
    return f"no slide {key!r} among the tfrecords: {hint}"


def _of_macos(file: str) -> bool:
    return file.rsplit("/", 1)[-1].startswith("._")


def few(names: Iterable[str]) -> str:
    """The first of some names, and how many more there are."""
    shown = list(names)
    more = f" and {len(shown) - 5} more" if len(shown) > 5 else ""
    return (", ".join(shown[:5]) or "none") + more
