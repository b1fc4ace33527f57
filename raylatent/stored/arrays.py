"""Stored activations as arrays, a slide at a time, of one run or several side by side.

Whether a run has all rows that its plan promises, or has said why it lacks some, is
checked before; bags are what Slideflow's multiple-instance models read.
"""

import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property, reduce
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raylatent import schema
from raylatent.errors import RunError
from raylatent.parts import Part, escape_partition, read_footer
from raylatent.run.directory import RunDirectory
from raylatent.run.layout import REPORT
from raylatent.seal import parse_json
from raylatent.storage import Store

Array = NDArray[Any]
BAGS_CONFIG = "bags_config.json"
_SHOWN = 5  # slides that a message names


class Promised:
    """What sources.parquet and report.json say of a run's slides.

    Args:
        run: The run; nothing is read until it is needed, and then once.
    """

    def __init__(self, run: RunDirectory) -> None:
        """See the class."""
        self._run = run

    @cached_property
    def n_indexed(self) -> dict[str, int]:
        """Tiles of each slide."""
        sources = self._run.sources()
        columns = (
            sources[name].to_pylist() for name in (schema.SLIDE, schema.N_INDEXED)
        )
        return dict(zip(*columns, strict=True))

    @cached_property
    def failed(self) -> frozenset[str]:
        """Slides whose failure is on record: tiles may lack."""
        sources = self._run.sources()
        columns = (sources[name].to_pylist() for name in (schema.SLIDE, schema.ERROR))
        said = {slide for slide, error in zip(*columns, strict=True) if error}
        store = self._run.store
        if not store.exists(REPORT):
            return frozenset(said)
        report = parse_json(store.read(REPORT)) or {}  # broken, it tells of no failure
        failed = report.get("failed")
        return frozenset(said | (failed.keys() if isinstance(failed, dict) else set()))

    def lacking(self, parts: Iterable[Part]) -> dict[str, int]:
        """How many tiles the parts lack of each slide; slides that lack none are out.

        Args:
            parts: All parts of the run that can be read.
        """
        have = dict.fromkeys(self.n_indexed, 0)
        for part in parts:
            have[part.slide] = have.get(part.slide, 0) + part.rows + part.quarantined
        missing = {slide: n - have[slide] for slide, n in self.n_indexed.items()}
        return {slide: n for slide, n in sorted(missing.items()) if n > 0}

    def check_parts(self, slide: str) -> None:
        """Refuse a slide without parts, or whose parts have a gap that no error explains.

        Their names and the last one's footer are read: a broken part is noticed when
        its rows are.

        Raises:
            RunError: It has no part, or one is lost.
            BrokenPartError: The last part is broken.
        """
        run = self._run
        names = run.parts(slide)
        if not names:
            message = (
                f"{run.uri} has no rows of slide {slide!r}: run `raylatent activations`"
                " again"
            )
            raise RunError(message)
        if slide in self.failed:
            return
        units = [name.rsplit("/", 1)[-1].removesuffix(".parquet") for name in names]
        for expected, unit in enumerate(units):
            if not unit.isdigit() or int(unit) != expected:
                message = (
                    f"slide {slide!r} lacks part {expected:06d} in {run.uri}: run "
                    "`raylatent activations` again"
                )
                raise RunError(message)
        _, footer = read_footer(run.store, names[-1])
        n = self.n_indexed.get(slide, 0)
        last = int(footer.get(schema.FOOTER_LAST, n))
        if last < n:
            message = (
                f"slide {slide!r} lacks the last {n - last} of {n} tiles in {run.uri}: "
                "run `raylatent activations` again"
            )
            raise RunError(message)


class SlideArrays(Mapping[str, Array]):
    """An array for each slide, read when it is asked for and not kept.

    Args:
        slides: Names, sorted.
        read: Reads one slide's array.

    >>> arrays = SlideArrays(["a"], lambda slide: np.zeros((2, 3)))
    >>> arrays["a"].shape, list(arrays), "b" in arrays
    ((2, 3), ['a'], False)
    """

    def __init__(self, slides: Sequence[str], read: Callable[[str], Array]) -> None:
        """See the class."""
        self._slides = list(slides)
        self._known = frozenset(slides)
        self._read = read

    def __getitem__(self, slide: str) -> Array:
        """The slide's array; KeyError names the slide, and those that there are."""
        if slide not in self._known:
            there = ", ".join(map(repr, self._slides[:_SHOWN]))
            more = len(self._slides) - _SHOWN
            message = f"{slide!r} (slides: {there}{f' and {more} more' * (more > 0)})"
            raise KeyError(message)
        return self._read(slide)

    def __contains__(self, slide: object) -> bool:
        """Whether there is such a slide; nothing is read."""
        return slide in self._known

    def __iter__(self) -> Iterator[str]:
        """Slides in order."""
        return iter(self._slides)

    def __len__(self) -> int:
        """Number of slides."""
        return len(self._slides)

    def __repr__(self) -> str:
        """What it is, without reading."""
        return f"<arrays of {len(self)} slides, read when asked for>"


class StoredArrays:
    """The rows of one run, or of several joined by slide and tile index.

    Predictions and locations are those of the first run. Tiles that are quarantined in
    any of the runs are missing in all arrays alike.

    Args:
        runs: At least one.

    Raises:
        RunError: There is no run, or no slide that all of them have.
    """

    def __init__(self, runs: Sequence[RunDirectory]) -> None:
        """See the class."""
        if not runs:
            message = "there is nothing to concatenate: give one set at least"
            raise RunError(message)
        self.runs = list(runs)
        common = reduce(set.intersection, (set(run.slides()) for run in runs))
        if len(runs) > 1 and not common:
            message = (
                f"no slide is in all of {', '.join(run.uri for run in runs)}: "
                "there is nothing to concatenate"
            )
            raise RunError(message)
        self.slides = sorted(common)
        self._promised = [Promised(run) for run in runs]

    def has_parts(self, slide: str) -> bool:
        """Whether all runs have a part of the slide: one that failed may have none."""
        return all(run.parts(slide) for run in self.runs)

    def _check(self, slide: str) -> None:
        for promised in self._promised:
            promised.check_parts(slide)

    @property
    def num_features(self) -> int:
        """Features of one tile, all layers of all runs together, flattened."""
        shapes = [shape for run in self.runs for shape in run.layers().values()]
        return sum(int(np.prod(shape)) for shape in shapes)

    def indices(self, slide: str) -> NDArray[np.int64]:
        """Tile indices of the slide's rows, ascending."""
        self._check(slide)
        columns = [
            run.read_rows(slide, [schema.TILE_INDEX])[schema.TILE_INDEX].to_numpy()
            for run in self.runs
        ]
        return columns[0] if len(columns) == 1 else reduce(np.intersect1d, columns)

    def activations(self, slide: str) -> Array:
        """Activations of one slide: one layer in its shape, several concatenated.

        Raises:
            RunError: The slide has no part, or one is lost.
            BrokenPartError: A part is broken.
        """
        self._check(slide)
        indices = self.indices(slide) if len(self.runs) > 1 else None
        blocks: list[Array] = []
        for run in self.runs:
            layers = run.layers()
            rows = _rows(run, slide, list(layers), indices)
            blocks += [
                _vectors(rows, name).reshape(len(rows), *shape)
                for name, shape in layers.items()
            ]
        if len(blocks) == 1:
            return blocks[0]
        return np.concatenate([flat(block) for block in blocks], axis=1)

    def predictions(self, slide: str) -> Array:
        """Predictions of one slide, float32 (n, classes)."""
        return _vectors(self._first(slide, [schema.PREDICTIONS]), schema.PREDICTIONS)

    def locations(self, slide: str) -> Array:
        """Centers of one slide's tiles, (n, 2): x, y in level-0 pixels.

        Integers where every tile has a location, else floats with NaN.
        """
        rows = self._first(slide, [schema.LOC_X, schema.LOC_Y])
        columns = [rows[name].to_numpy() for name in (schema.LOC_X, schema.LOC_Y)]
        return np.stack(columns, axis=1)

    def _first(self, slide: str, columns: list[str]) -> pa.Table:
        self._check(slide)
        indices = self.indices(slide) if len(self.runs) > 1 else None
        return _rows(self.runs[0], slide, columns, indices)


def flat(rows: Array) -> Array:
    """Rows of any shape as (n, features), also where there are none.

    >>> flat(np.zeros((0, 2, 3))).shape
    (0, 6)
    """
    return rows.reshape(len(rows), int(np.prod(rows.shape[1:])))


def _rows(
    run: RunDirectory,
    slide: str,
    columns: list[str],
    indices: NDArray[np.int64] | None,
) -> pa.Table:
    """A slide's rows in tile order, only those of some tile indices if given."""
    rows = run.read_rows(slide, [schema.TILE_INDEX, *columns])
    if indices is None:
        return rows
    return rows.filter(np.isin(rows[schema.TILE_INDEX].to_numpy(), indices))


def _vectors(rows: pa.Table, name: str) -> Array:
    return np.require(
        schema.vectors(rows, name), requirements="W"
    )  # Arrow's own memory is read-only


def write_bag(
    store: Store,
    slide: str,
    features: NDArray[np.floating[Any]],
    locations: NDArray[Any],
) -> None:
    """One slide's bag: `<slide>.index.npz`, then `<slide>.pt`.

    Args:
        store: Where.
        slide: Its name; escaped in the files' names where it would be a path.
        features: (n, ...), written as float32 (n, features).
        locations: (n, 2), `arr_0` of the index.
    """
    import torch  # noqa: PLC0415  (slow)

    index = io.BytesIO()
    np.savez(index, locations)
    rows = np.ascontiguousarray(flat(features), np.float32)
    bag = io.BytesIO()
    torch.save(torch.from_numpy(rows), bag)
    plain = "/" not in slide and slide.strip(".") and "\0" not in slide
    stem = slide if plain else escape_partition(slide)
    store.write(f"{stem}.index.npz", index.getvalue())
    store.write(f"{stem}.pt", bag.getvalue())


def write_bags_config(
    store: Store, settings: Mapping[str, Any], num_features: int
) -> None:
    """What the bags are made with, from a run's settings."""
    fields = settings["fields"]
    config = {
        "extractor": {"model": settings["model"], "fields": fields},
        "num_features": num_features,
        "tile_px": fields["tile_px"],
    }
    store.write(BAGS_CONFIG, json.dumps(config, indent=1).encode())
