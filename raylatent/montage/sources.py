"""Where a mosaic's tiles are, by slide or by source id."""

import logging
import os
from collections.abc import Collection, Container, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from raylatent import schema
from raylatent.claim import new_token
from raylatent.errors import SourceError
from raylatent.run import RunDirectory
from raylatent.source.find import find_tfrecords
from raylatent.source.kinds import kind_of, look_again, moved_sources
from raylatent.source.protocol import Place
from raylatent.source.tfrecords import TFRECORDS, tfrecords_below
from raylatent.source.units import Source, sources_from_table
from raylatent.storage import absolute

logger = logging.getLogger(__name__)

_AT_ONCE = 8  # folders that are listed


@dataclass(frozen=True)
class Located:
    """A source of a run, and where it is now.

    Attributes:
        source: As planned.
        uri: Where it is.
        icc: Whether colors were converted by the slides' profiles.
    """

    source: Source
    uri: str
    icc: bool = False

    def place(self, row: Mapping[str, Any]) -> Place:
        """Where the pixels of a tile are; MapError if its reference does not tell."""
        return kind_of(self.source).place(self.source, self.uri, row, icc=self.icc)


TFRecords = Mapping[str, str] | Mapping[int, str | Located] | Iterable[str] | str


def tfrecord_uris(
    tfrecords: TFRecords, needed: Container[str] | None = None
) -> dict[str | int, str | Located]:
    """TFRecords by slide, or sources by id where that is how they were given.

    Args:
        tfrecords: As of `Mosaic`.
        needed: Slides that are looked for: what is wrong with others does not matter.
    """
    if isinstance(tfrecords, Mapping):
        return {
            key: uri if isinstance(uri, Located) else absolute(uri)
            for key, uri in tfrecords.items()
        }
    if isinstance(tfrecords, str | os.PathLike):
        tfrecords = [os.fspath(tfrecords)]
    paths = [os.fspath(path) for path in tfrecords]
    found = find_tfrecords(paths) if needed is None else tfrecords_below(paths, needed)
    return {slide: absolute(uri) for slide, uri in found.items()}


def unknown(key: object, known: Mapping[str | int, str | Located]) -> str:
    """Says that a slide or source is not among those known."""
    if not isinstance(key, str):
        return f"tfrecords hold no source {key}: they have {few(map(str, known))}"
    near = get_close_matches(key, [str(name) for name in known], n=3)
    hint = f"near it are {few(near)}" if near else f"there are {few(map(str, known))}"
    return f"no slide {key!r} among the tfrecords: {hint}"


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

    Folders in which a run's sources are to be found are searched for them.
    """
    if given is None:
        return source_places(run)
    if isinstance(given, Mapping):
        return given
    if set(run.sources()[schema.KIND].to_pylist()) <= {TFRECORDS}:
        return given
    roots = [given] if isinstance(given, str | os.PathLike) else given
    return source_places(run, [os.fspath(root) for root in roots], needed)


def source_places(
    run: RunDirectory,
    roots: Sequence[str] | None = None,
    needed: Collection[str] | None = None,
) -> dict[int, str | Located]:
    """A run's sources by id.

    Args:
        run: The run directory.
        roots: Where they are now, if they were moved: files and folders. What is not
            found there is looked for where it was.
        needed: Slides that matter; None: all.

    Raises:
        SourceError: A root is not there, or none of the run's sources is.
    """
    sources = sources_from_table(run.sources())
    icc = bool((run.settings().get("fields", {}).get("slides") or {}).get("icc"))
    if needed is not None:
        sources = [source for source in sources if source.slide in needed]
    moved = {} if roots is None else _below(roots, sources)
    found = {
        source.source: Located(source, moved.get(source.slide, source.uri), icc)
        for source in sources
    }
    other = _changed(found.values())
    if other:
        logger.warning(
            "the tiles of %d slides have changed since the run: what is drawn may be "
            "others than those of its rows: %s",
            *(len(other), few(other)),
        )
    return {**found}


def _changed(found: Iterable[Located]) -> list[str]:
    """Slides whose tiles may be others than those of the rows."""
    look_again(new_token())
    places: dict[str, list[Located]] = {}
    for one in found:
        places.setdefault(one.uri, []).append(one)

    def of_place(some: list[Located]) -> list[str]:
        differs = (kind_of(one.source).differs(one.source, one.uri) for one in some)
        return [
            one.source.slide for one, other in zip(some, differs, strict=True) if other
        ]

    with ThreadPoolExecutor(_AT_ONCE, "sources") as pool:
        return [slide for some in pool.map(of_place, places.values()) for slide in some]


def _below(roots: Sequence[str], sources: Sequence[Source]) -> dict[str, str]:
    """Sources found again by slide, each kind among its own."""
    names = [source.slide for source in sources]
    moved = moved_sources(roots, sources)
    found = {slide: absolute(uri) for slide, uri in moved.items()}
    lost = sorted(set(names) - set(found))
    if lost and not found:
        message = f"{few(roots)} holds none of the run's sources: {few(lost)}"
        raise SourceError(message)
    if lost:
        logger.warning(
            "%d of %d sources are not below %s and are looked for where they were: %s",
            *(len(lost), len(names), few(roots), few(lost)),
        )
    return found
