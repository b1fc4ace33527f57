"""Where a mosaic's TFRecords and whole slides are, by slide or by source id."""

import logging
import os
from collections.abc import Callable, Collection, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from raylatent import schema
from raylatent.errors import SourceError
from raylatent.montage.slide_tiles import WholeSlide
from raylatent.run import RunDirectory
from raylatent.source import slides
from raylatent.source.find import find_tfrecords, slide_name
from raylatent.source.names import match
from raylatent.source.tfrecord import SUFFIXES
from raylatent.storage import absolute, list_files

logger = logging.getLogger(__name__)

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


def where(
    run: RunDirectory,
    given: Any,  # noqa: ANN401  (as of Mosaic)
    needed: Collection[str] | None = None,
) -> Any:  # noqa: ANN401
    """Where a mosaic's tiles are: as given, else as the run knows.

    Folders in which a run's whole slides are to be found are searched for them.
    """
    if given is None:
        return source_places(run)
    if isinstance(given, Mapping) or not run.settings()["fields"].get("slides"):
        return given
    roots = [given] if isinstance(given, str | os.PathLike) else given
    return source_places(run, [os.fspath(root) for root in roots], needed)


def source_places(
    run: RunDirectory,
    roots: Sequence[str] | None = None,
    needed: Collection[str] | None = None,
) -> dict[int, str | WholeSlide]:
    """TFRecords and whole slides by source id.

    Args:
        run: The run directory.
        roots: Where they are now, if they were moved: files and folders. What is not
            found there is looked for where it was.
        needed: Slides that matter; None: all.

    Raises:
        SourceError: A root is not there, or none of the run's sources is.
    """
    columns = (
        *(schema.SOURCE, schema.SLIDE, schema.URI),
        *(schema.WINDOW_PX, schema.TILE_PX),
    )
    sources = run.sources().select(columns).to_pylist()
    of_slides = run.settings().get("fields", {}).get("slides") or {}
    icc = bool(of_slides.get("icc"))
    if needed is not None:
        sources = [row for row in sources if row[schema.SLIDE] in needed]
    moved = {} if roots is None else _below(roots, sources)
    places: dict[int, str | WholeSlide] = {}
    for row in sources:
        uri = moved.get(row[schema.SLIDE], row[schema.URI])
        window = row[schema.WINDOW_PX]
        places[row[schema.SOURCE]] = (
            uri
            if window is None
            else WholeSlide(
                uri=uri, window_px=window, icc=icc, tile_px=row[schema.TILE_PX]
            )
        )
    return places


def _below(roots: Sequence[str], sources: list[dict[str, Any]]) -> dict[str, str]:
    """Sources found again by slide: TFRecords among TFRecords, slides among slides."""
    whole = {r[schema.SLIDE] for r in sources if r[schema.WINDOW_PX] is not None}
    names = {row[schema.SLIDE] for row in sources}
    found: dict[str, str] = {}
    for kind, wanted in ((TFRECORD_FILES, names - whole), (SLIDE_FILES, whole)):
        if wanted:
            there = kind.below(roots, wanted, may_lack=True)
            # Copied by way of a Mac, names may be composed of other characters.
            moved = match(((n, n) for n in wanted), there)
            found |= {own: absolute(there[n]) for n, own in moved.items()}
    lost = sorted(names - set(found))
    if lost and not found:
        message = f"{few(roots)} holds none of the run's sources: {few(lost)}"
        raise SourceError(message)
    if lost:
        logger.warning(
            "%d of %d sources are not below %s and are looked for where they were: %s",
            *(len(lost), len(names), few(roots), few(lost)),
        )
    return found
