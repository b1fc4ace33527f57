"""Where a mosaic's TFRecords are, by slide or by source id."""

import os
from collections.abc import Container, Iterable, Mapping
from difflib import get_close_matches

from raylatent.errors import SourceError
from raylatent.montage.slide_tiles import WholeSlide
from raylatent.source.find import find_tfrecords, slide_name
from raylatent.source.tfrecord import SUFFIXES
from raylatent.storage import absolute, list_files

TFRecords = Mapping[str, str] | Mapping[int, str | WholeSlide] | Iterable[str] | str


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
    try:
        found = find_tfrecords(paths)
    except SourceError:
        if needed is None:
            raise
        found = find_tfrecords([f for p in paths for f in _needed_files(p, needed)])
    return {slide: absolute(uri) for slide, uri in found.items()}


def _needed_files(path: str, needed: Container[str]) -> list[str]:
    """Files of some slides at a path; the path itself where it holds no TFRecord."""
    files = [f for f in list_files(path) or [] if f.endswith(SUFFIXES)]
    names = [f.rsplit("/", 1)[-1] for f in files]
    return [
        file
        for file, name in zip(files, names, strict=True)
        if not name.startswith("._") and slide_name(file) in needed
    ] or ([] if files else [path])


def unknown(key: object, known: Mapping[str | int, str | WholeSlide]) -> str:
    """Says that a slide or source is not among those known."""
    if not isinstance(key, str):
        return f"tfrecords hold no source {key}: they have {_few(map(str, known))}"
    near = get_close_matches(key, [str(name) for name in known], n=3)
    hint = f"near it are {_few(near)}" if near else f"there are {_few(map(str, known))}"
    return f"no slide {key!r} among the tfrecords: {hint}"


def _few(names: Iterable[str]) -> str:
    shown = list(names)
    more = f" and {len(shown) - 5} more" if len(shown) > 5 else ""
    return (", ".join(shown[:5]) or "none") + more
