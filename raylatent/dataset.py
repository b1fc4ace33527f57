"""Dataset: slides with tiles of one size, and what the annotations say of them."""

import hashlib
import json
import logging
import os
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from raylatent.annotations import (
    SLIDE_COLUMN,
    Row,
    say_odd_labels,
    slide_labels,
    tidy,
)
from raylatent.errors import (
    AnnotationsError,
    ConfigError,
    IncompleteError,
    SourceError,
)
from raylatent.source.kinds import sorted_paths
from raylatent.source.names import match, match_said

if TYPE_CHECKING:
    from raylatent.engine.report import RunReport

logger = logging.getLogger(__name__)

ANNOTATIONS = "annotations.csv"

Filters = Mapping[str, "str | Sequence[str]"]
Paths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


def inputs_of(dataset: "Dataset | Paths") -> dict[str, Any]:
    """Options of `raylatent activations` for a dataset, or for paths of any kind."""
    if isinstance(dataset, str | os.PathLike):
        dataset = [dataset]
    if isinstance(dataset, Sequence):
        return dict(sorted_paths([os.fspath(path) for path in dataset]))
    return dataset.inputs()


def refuse_failed(report: "RunReport", others: str) -> None:
    """Raise IncompleteError if some slide failed.

    Args:
        report: What became of each slide.
        others: What became of the others, in words.
    """
    if report.failed:
        first = report.failed[0]
        message = (
            f"{len(report.failed)} of {len(report.slides)} slides failed, as "
            f"{first.slide!r}: {first.error} (the others are {others})"
        )
        raise IncompleteError(message)


class Dataset:
    """Slides with tiles of one size, and what the annotations say of them.

    Args:
        files: TFRecord of each slide.
        root: The project's folder; where runs go.
        tile_px: Side of the tiles in pixels.
        tile_um: Side in micrometers, or a magnification as `10x`.
        annotations: Rows, each with a `slide`.
        filters: Allowed values of columns.
        filter_blank: Columns that must not be empty.
        variant: What tells these tiles from others that the project has of the same
            slides, as `299px_10x`; empty where it has no others.
        whole: The files are whole slides, whose tiles are cut as they are needed.

    Raises:
        AnnotationsError: A filter's column is not in the annotations.
        SourceError: The filters leave no slide.
    """

    def __init__(  # noqa: PLR0913  (what a project knows of it)
        self,
        files: Mapping[str, str],
        *,
        root: str,
        tile_px: int | None = None,
        tile_um: float | str | None = None,
        annotations: Sequence[Row] = (),
        filters: Filters | None = None,
        filter_blank: str | Sequence[str] = (),
        variant: str = "",
        whole: bool = False,
    ) -> None:
        """See the class."""
        self._given = {n: v for n, v in locals().items() if n not in {"self", "files"}}
        self.root = root
        self.whole = whole
        self.variant = variant
        self.tile_px = tile_px
        self.tile_um = tile_um
        self.annotations = list(annotations)
        self.filters = {tidy(k): _values(v) for k, v in (filters or {}).items()}
        self.filter_blank = _values(filter_blank)
        self._files = dict(files)
        if self.filters or self.filter_blank:
            if not self.annotations:
                message = (
                    f"{root} has no {ANNOTATIONS}, so there is nothing to filter by"
                )
                raise AnnotationsError(message)
            kept = [row[SLIDE_COLUMN] for row in self.annotations if self._keeps(row)]
            self._say_unknown()
            left = match(((slide, True) for slide in kept if tidy(slide)), files)
            self._files = {s: uri for s, uri in files.items() if s in left}
            if not self._files:
                message = (
                    f"no slide of {root} is left by filters {self.filters} and "
                    f"filter_blank {self.filter_blank}"
                )
                raise SourceError(message)

    def __repr__(self) -> str:
        """How many slides, of which tiles."""
        size = f"tile_px={self.tile_px}, tile_um={self.tile_um!r}"
        return f"Dataset({len(self._files)} slides, {size})"

    def _keeps(self, row: Row) -> bool:
        for column in (*self.filters, *self.filter_blank):
            if column not in row:
                have = ", ".join(row)
                message = f"annotations have no column {column!r} (they have {have})"
                raise AnnotationsError(message)
        allowed = all(
            tidy(row[name]) in values for name, values in self.filters.items()
        )
        return allowed and all(tidy(row[column]) for column in self.filter_blank)

    def _say_unknown(self) -> None:
        """Say which values of filters no slide has: one may be written otherwise."""
        for column, values in self.filters.items():
            there = {tidy(row[column]) for row in self.annotations}
            if lost := [value for value in values if value not in there]:
                logger.warning(
                    "no slide has %s in the column %r of the annotations of %s",
                    *(" or ".join(map(repr, lost[:5])), column, self.root),
                )

    def filter(
        self, filters: Filters, filter_blank: str | Sequence[str] = ()
    ) -> "Dataset":
        """The slides among these that have allowed values."""
        blank = [*self.filter_blank, *_values(filter_blank)]
        own = {**self._given, "filters": {**self.filters, **filters}}
        return Dataset(self._files, **{**own, "filter_blank": blank})

    def slides(self) -> list[str]:
        """Names of the slides, sorted."""
        return sorted(self._files)

    def tfrecords(self) -> list[str]:
        """Their TFRecords; none of whole slides."""
        return [] if self.whole else self._paths()

    def slide_paths(self) -> list[str]:
        """The whole slides, where tiles are cut out of them; else none."""
        return self._paths() if self.whole else []

    def _paths(self) -> list[str]:
        return [self._files[slide] for slide in self.slides()]

    def inputs(self) -> dict[str, Any]:
        """Options of `raylatent activations` that name these tiles."""
        if not self.whole:
            return {"tfrecords": tuple(self.tfrecords())}
        return {
            "slides": tuple(self.slide_paths()),
            "tile_px": self.tile_px,
            "tile_um": str(self.tile_um),
            "annotations": f"{self.root}/{ANNOTATIONS}" if self.annotations else "",
        }

    def labels(
        self, column: str, *, format: Literal["index", "name"] = "index"
    ) -> tuple[dict[str, Any], list[str]]:
        """Label of each slide, and the labels there are, sorted.

        Args:
            column: Of the annotations.
            format: `name` for the labels themselves, `index` for their position among
                the sorted ones.

        Raises:
            AnnotationsError: There are no annotations, no such column, or no label of
                any of the slides.
        """
        if format not in {"index", "name"}:
            message = f"format is {format!r}, not 'index' or 'name'"
            raise ConfigError(message)
        if not self.annotations:
            message = f"{self.root} has no {ANNOTATIONS}, so slides have no labels"
            raise AnnotationsError(message)
        found = slide_labels(self.annotations, column, where=f"{self.root}")
        where = f"the annotations of {self.root}"
        say_odd_labels(found.values(), where)
        names = match_said(found, self.slides(), what=repr(column), where=where)
        unique = sorted(set(names.values()))
        if format == "name":
            return dict(names), unique
        return {s: unique.index(label) for s, label in names.items()}, unique

    def features_folder(self, model: str) -> str:
        """Where activations go: `<root>/features/<model>-<fingerprint>`.

        The part in braces is filled in once it is known. Filtered datasets, and sizes
        of tiles where there are several, have their own: none sets aside the others'.
        """
        name = re.sub(r"[^\w.-]+", "_", model).strip(".") or "model"
        folder = f"{self.root}/features/{name}-{{fingerprint}}"
        filters = {column: sorted(set(v)) for column, v in self.filters.items()}
        about = [self.variant, filters, sorted(set(self.filter_blank))]
        if not any(about):
            return folder
        text = json.dumps(about, sort_keys=True)
        return f"{folder}-{hashlib.blake2b(text.encode(), digest_size=3).hexdigest()}"


def _values(values: "str | Sequence[str]") -> list[str]:
    given = [values] if isinstance(values, str) else values
    return [tidy(str(value)) for value in given]
