"""Where a point falls on a mosaic: square cells over the map.

A grid is made from the bounds of the points alone, and bounds merge, so that every
worker of a cluster holds the same grid without seeing the other points.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from math import ceil, isfinite
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from raylatent.config import GRIDS, NUM_TILES_X
from raylatent.errors import MapError

MAX_ROWS = 100_000
"""Rows of cells that a grid may have; a map so narrow is refused."""

# A height of 50.000000000000007 cells is 50 cells: it came of rounding.
_ROUNDING_CELLS = 1e-9
_WIDE, _LEAST_COLUMNS = 1.2, 5  # cells along the longer side, in roots of the tiles
_MANY = 1e12  # more rows than any grid, and still an integer


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """The extent of finite points; bounds of parts merge to those of the whole.

    Attributes:
        n: Points that are finite in x and y.
        n_dropped: Points that are not (NaN or infinite).
    """

    xmin: float = float("inf")
    xmax: float = float("-inf")
    ymin: float = float("inf")
    ymax: float = float("-inf")
    n: int = 0
    n_dropped: int = 0

    @classmethod
    def of(cls, xy: ArrayLike) -> "Bounds":
        """Of an array of shape (n, 2).

        >>> Bounds.of([(0, 1), (2, 5), (float("nan"), 9)])
        Bounds(xmin=0.0, xmax=2.0, ymin=1.0, ymax=5.0, n=2, n_dropped=1)
        """
        points = np.asarray(xy, np.float64)
        finite = points[np.isfinite(points).all(axis=1)]
        if not len(finite):
            return cls(n_dropped=len(points))
        (xmin, ymin), (xmax, ymax) = finite.min(axis=0), finite.max(axis=0)
        return cls(
            xmin=float(xmin),
            xmax=float(xmax),
            ymin=float(ymin),
            ymax=float(ymax),
            n=len(finite),
            n_dropped=len(points) - len(finite),
        )

    def merge(self, other: "Bounds") -> "Bounds":
        """Of both sets of points together."""
        return Bounds(
            xmin=min(self.xmin, other.xmin),
            xmax=max(self.xmax, other.xmax),
            ymin=min(self.ymin, other.ymin),
            ymax=max(self.ymax, other.ymax),
            n=self.n + other.n,
            n_dropped=self.n_dropped + other.n_dropped,
        )

    @property
    def width(self) -> float:
        """Extent along x, 0 where all points share it."""
        return self.xmax - self.xmin

    @property
    def height(self) -> float:
        """Extent along y, 0 where all points share it."""
        return self.ymax - self.ymin


@dataclass(frozen=True, kw_only=True)
class SquareGrid:
    """One square cell size for binning, centers and drawing.

    A cell holds its lower and left edge; points on the upper edge of the map are in
    the last cell. Where all x are equal, the height is divided instead of the width.
    """

    kind: ClassVar[str] = "square"
    xmin: float
    ymin: float
    cell: float
    n_cols: int
    n_rows: int

    def __post_init__(self) -> None:
        """Refuse what is no grid."""
        if not (isfinite(self.cell) and self.cell > 0):
            message = f"a cell must have a size above 0, not {self.cell}"
            raise MapError(message)
        if self.n_rows > MAX_ROWS:
            message = (
                f"{self.n_cols} columns on this map would make {self.n_rows} rows "
                f"(at most {MAX_ROWS}): the map is too narrow, ask for fewer columns "
                "or give other coordinates"
            )
            raise MapError(message)

    @classmethod
    def fit(cls, bounds: Bounds, num_tiles_x: int) -> "SquareGrid":
        """The grid with `num_tiles_x` columns over the range of x.

        >>> grid = SquareGrid.fit(Bounds.of([(0, 0), (4, 2)]), 8)
        >>> grid.cell, grid.n_cols, grid.n_rows
        (0.5, 8, 4)
        """
        check_bounds(bounds, num_tiles_x)
        extent = bounds.width or bounds.height
        cell = extent / num_tiles_x or 1.0
        rows = ceil(min(bounds.height / cell, _MANY) - _ROUNDING_CELLS)
        return cls(
            xmin=bounds.xmin,
            ymin=bounds.ymin,
            cell=cell,
            n_cols=num_tiles_x if bounds.width else 1,
            n_rows=max(1, rows),
        )

    def bin(self, xy: NDArray[np.float64]) -> tuple[NDArray[np.int64], ...]:
        """Row and column of each point (n, 2), -1 for both where it is outside."""
        cols = _steps(xy[:, 0], self.xmin, self.cell, self.n_cols)
        rows = _steps(xy[:, 1], self.ymin, self.cell, self.n_rows)
        outside = (rows < 0) | (cols < 0)
        rows[outside] = cols[outside] = -1
        return rows, cols

    def center(
        self, rows: NDArray[np.int64], cols: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """Centers of cells, shape (n, 2)."""
        return _centers(self, rows, cols)


@dataclass(frozen=True, kw_only=True)
class SlideflowGrid:
    """Slideflow's grid, number for number, so that old figures can be repeated.

    Its bins along y are the height divided by a truncated number of rows, while its
    centers step by the cell's width; and `np.arange` may add a bin at the upper end,
    which puts points in a column or row beyond the last. Both are kept. Source of the
    formulas: slideflow/mosaic.py, `generate_grid`, version 3.0 (Apache-2.0).
    """

    kind: ClassVar[str] = "slideflow"
    bounds: Bounds
    num_tiles_x: int

    def __post_init__(self) -> None:
        """Refuse a map on which Slideflow has no grid."""
        check_bounds(self.bounds, self.num_tiles_x)
        if self.bounds.width == 0:
            message = (
                f"all points have x = {self.bounds.xmin:g}, which Slideflow's grid "
                "cannot divide: use grid='square'"
            )
            raise MapError(message)
        if self.n_rows > MAX_ROWS:
            message = (
                f"{self.num_tiles_x} columns on this map would make {self.n_rows} rows "
                f"(at most {MAX_ROWS}): ask for fewer columns"
            )
            raise MapError(message)

    @classmethod
    def fit(cls, bounds: Bounds, num_tiles_x: int) -> "SlideflowGrid":
        """As `SquareGrid.fit`."""
        return cls(bounds=bounds, num_tiles_x=num_tiles_x)

    @property
    def xmin(self) -> float:
        """The lowest x."""
        return self.bounds.xmin

    @property
    def ymin(self) -> float:
        """The lowest y."""
        return self.bounds.ymin

    @property
    def cell(self) -> float:
        """Slideflow's `tile_size`."""
        return self.bounds.width / self.num_tiles_x

    @property
    def n_cols(self) -> int:
        """Slideflow's `num_tiles_x`."""
        return self.num_tiles_x

    @property
    def n_rows(self) -> int:
        """Slideflow's `num_tiles_y`: truncated, 0 on a map that is flatter than a cell."""
        return int(min(self.bounds.height / self.cell, _MANY))

    @cached_property
    def _bins(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        b = self.bounds
        x_bins = np.arange(b.xmin, b.xmax, b.width / self.n_cols)[1:]
        if not self.n_rows:
            return x_bins, np.empty(0)
        return x_bins, np.arange(b.ymin, b.ymax, b.height / self.n_rows)[1:]

    def bin(self, xy: NDArray[np.float64]) -> tuple[NDArray[np.int64], ...]:
        """Row and column of each point (n, 2); -1 for both where it is not finite."""
        x_bins, y_bins = self._bins
        cols = np.digitize(xy[:, 0], x_bins).astype(np.int64)
        rows = np.digitize(xy[:, 1], y_bins).astype(np.int64)
        missing = ~np.isfinite(xy).all(axis=1)
        rows[missing] = cols[missing] = -1
        return rows, cols

    def center(
        self, rows: NDArray[np.int64], cols: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """Centers of cells as Slideflow has them, shape (n, 2)."""
        return _centers(self, rows, cols)


@dataclass(frozen=True, kw_only=True, eq=False)
class EvenGrid:
    """A full rectangle of cells, each for the points that are nearest to its center.

    `centers` are places on the map, by row, then column, shape (n_rows * n_cols, 2); no
    two are the same.
    """

    kind: ClassVar[str] = "even"
    bounds: Bounds
    centers: NDArray[np.float64]
    n_cols: int
    n_rows: int

    @property
    def cell(self) -> float:
        """Side of the square that each would have of the map, if it were even."""
        area = self.bounds.width * self.bounds.height / (self.n_cols * self.n_rows)
        longer = max(self.bounds.width, self.bounds.height)
        return math.sqrt(area) or longer / max(self.n_cols, self.n_rows) or 1.0

    @cached_property
    def _tree(self) -> Any:  # noqa: ANN401  (it has no types)
        from scipy.spatial import cKDTree  # noqa: PLC0415  (slow)

        return cKDTree(self.centers)

    def bin(self, xy: NDArray[np.float64]) -> tuple[NDArray[np.int64], ...]:
        """Row and column of each point (n, 2); -1 for both where it is not finite."""
        nearest = np.full(len(xy), -1, np.int64)
        finite = np.isfinite(xy).all(axis=1)
        nearest[finite] = self._tree.query(xy[finite])[1]
        rows, cols = np.divmod(nearest, self.n_cols)
        cols[~finite] = -1
        return rows, cols

    def center(
        self, rows: NDArray[np.int64], cols: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """Centers of cells on the map, shape (n, 2)."""
        return np.asarray(self.centers[rows * self.n_cols + cols], np.float64)


Grid = SquareGrid | SlideflowGrid | EvenGrid


def make_grid(kind: str, bounds: Bounds, num_tiles_x: int) -> Grid:
    """The grid of a kind, `square` or `slideflow`, over `bounds`."""
    if kind not in GRIDS:
        message = f"unknown grid {kind!r}: choose {' or '.join(map(repr, GRIDS))}"
        raise MapError(message)
    if kind == "slideflow":
        return SlideflowGrid.fit(bounds, num_tiles_x)
    return SquareGrid.fit(bounds, num_tiles_x)


def suitable_columns(bounds: Bounds) -> int:
    """Columns with which few tiles make no mosaic of mostly empty cells.

    >>> square = {"xmin": 0, "xmax": 1, "ymin": 0, "ymax": 1}
    >>> [suitable_columns(Bounds(**square, n=n)) for n in (9, 300, 10_000)]
    [5, 21, 50]
    """
    longer = max(bounds.width, bounds.height)
    across = (bounds.width / longer if longer else 0.0) or 1.0
    wanted = round(_WIDE * math.sqrt(bounds.n) * across)
    return min(NUM_TILES_X, max(_LEAST_COLUMNS, wanted))


def _steps(
    values: NDArray[np.float64], low: float, cell: float, n: int
) -> NDArray[np.int64]:
    """Whole cells from `low`, -1 below it or beyond the upper edge."""
    with np.errstate(invalid="ignore", over="ignore"):
        steps = np.floor((values - low) / cell)
        # The upper edge is a point of the map; with rounding it may be just beyond.
        on_edge = (steps >= n) & ((values - low) <= n * cell * (1 + _ROUNDING_CELLS))
    steps[on_edge] = n - 1
    inside = (steps >= 0) & (steps < n)  # False for NaN
    return np.where(inside, steps, -1).astype(np.int64)


def _centers(
    grid: SquareGrid | SlideflowGrid, rows: NDArray[np.int64], cols: NDArray[np.int64]
) -> NDArray[np.float64]:
    half = grid.cell / 2
    x = cols * grid.cell + (half + grid.xmin)
    y = rows * grid.cell + (half + grid.ymin)
    return np.stack([x, y], axis=1)


def check_bounds(bounds: Bounds, num_tiles_x: int) -> None:
    """Refuse what no grid can be made of; MapError says why."""
    if num_tiles_x < 1:
        message = f"num_tiles_x must be 1 or more, not {num_tiles_x}"
        raise MapError(message)
    if not bounds.n:
        dropped = f" ({bounds.n_dropped} are not finite)" if bounds.n_dropped else ""
        message = f"a mosaic needs points, and there are none{dropped}"
        raise MapError(message)
    if not isfinite(bounds.width + bounds.height):
        message = "the points are too far apart for a grid: scale the coordinates"
        raise MapError(message)
