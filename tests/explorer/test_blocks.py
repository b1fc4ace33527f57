"""Blocks of points: those that are near one another, and the same however they are read."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

from raylatent import schema
from raylatent.explorer import blocks
from raylatent.explorer.blocks import Names, write_points
from raylatent.explorer.pyramid import Square, morton
from raylatent.montage.grid import Bounds
from raylatent.montage.points import HeldParts, Points, Rule
from tests.explorer.test_scripts import read_block

N = 500


class Pieces(HeldParts):
    """Points in several parts; it is told how often all of them were read."""

    def __init__(self, points, size):
        super().__init__(points)
        self.asked, self._all, self._size = [], points, size

    def read(self, *columns):
        self.asked.append(columns)
        for start in range(0, len(self._all.xy), self._size):
            stop = min(start + self._size, len(self._all.xy))
            own = self._all.take(np.arange(start, stop))
            yield own if columns else dataclasses.replace(own, predictions=None)


@pytest.fixture
def points():
    rng = np.random.default_rng(0)
    xy = rng.normal(size=(N, 2)).astype(np.float32).astype(np.float64)
    xy[7], xy[9, 0] = np.nan, np.inf
    reference = {
        schema.SLIDE: [f"s{i % 3}" for i in range(N)],
        schema.TILE_INDEX: np.arange(N),
    }
    predictions = rng.random((N, 3), np.float32)
    predictions[11] = np.nan
    return Points.of(xy, reference=pa.table(reference), predictions=predictions)


def written(points, folder, size=N):
    """Files, what is told of them, and which columns were read."""
    bounds = Bounds.of(points.xy)
    found = SimpleNamespace(
        square=Square.around(bounds),
        bounds=bounds,
        rule=Rule(),
        extent=SimpleNamespace(all_points=True, sample=0),
    )
    names = Names(slides=[(f"s{i}", f"s{i}") for i in range(3)], n_classes=3)
    files, parts = {}, Pieces(points, size)
    about = write_points(files.__setitem__, parts, found, names, str(folder))
    assert list(folder.iterdir()) == []
    return files, about, parts.asked


def test_points_are_in_order_of_the_curve_and_read_once(points, tmp_path, monkeypatch):
    whole, about, _ = written(points, tmp_path)
    assert [one["n"] for one in about] == [N - 2]
    monkeypatch.setattr(blocks, "_TOGETHER", 60)
    files, _, asked = written(points, tmp_path, size=70)
    assert [len(columns) for columns in asked] == [0, 2]
    rows = [read_block(data)[1] for data in files.values()]
    assert len(rows) > 5
    [(_, expected)] = [read_block(data) for data in whole.values()]
    for name, values in expected.items():
        joined = np.concatenate([one[name] for one in rows])
        np.testing.assert_array_equal(joined, values)


def test_points_without_a_place_are_left_out(points, tmp_path):
    files, about, _ = written(points, tmp_path)
    [(_, columns)] = [read_block(data) for data in files.values()]
    own = np.isfinite(points.xy).all(axis=1)
    assert sorted(columns["tile"]) == np.flatnonzero(own).tolist()
    xy = points.xy[own]
    assert about[0]["bbox"] == [*xy.min(axis=0), *xy.max(axis=0)]
    best = dict(zip(columns["tile"].tolist(), columns["pred"].tolist(), strict=True))
    assert best.pop(11) == 0xFFFF
    assert best == {i: int(points.predictions[i].argmax()) for i in best}


def test_blocks_are_neighborhoods(points, tmp_path):
    files, _, _ = written(points, tmp_path)
    [(_, columns)] = [read_block(data) for data in files.values()]
    square = Square.around(Bounds.of(points.xy))
    steps = [
        np.minimum((columns[axis] - low) / square.side * 65536, 65535).astype(int)
        for axis, low in (("x", square.x), ("y", square.y))
    ]
    assert (np.diff(morton(steps[1], steps[0]).astype(np.int64)) >= 0).all()
