"""Stored rows as arrays, and bags of them."""

import numpy as np
import pyarrow as pa
import pytest
import torch

from raylatent.errors import RunError
from raylatent.storage import Store
from raylatent.stored.arrays import Promised, SlideArrays, StoredArrays, write_bag


@pytest.fixture(autouse=True)
def _all_is_there(monkeypatch):
    """Rows in memory are in no parts; see test_run_complete.py for those that lack some."""
    monkeypatch.setattr(Promised, "check_parts", lambda self, slide: None)


class Run:
    """What StoredArrays needs of a run: rows in memory."""

    def __init__(self, rows, shape=(2,), uri="run"):
        self.rows, self.shape, self.uri, self.reads = rows, shape, uri, 0

    def slides(self):
        return sorted(self.rows)

    def layers(self):
        return {"conv": self.shape}

    def read_rows(self, slide, columns):
        self.reads += 1
        indices = np.array(self.rows[slide], np.int64)
        size = int(np.prod(self.shape))
        values = np.arange(len(indices) * size, dtype=np.float32)
        table = pa.table(
            {
                "tile_index": indices,
                "loc_x": pa.array(indices * 10, pa.int32()),
                "loc_y": pa.array(indices * 20, pa.int32()),
                "conv": pa.FixedSizeListArray.from_arrays(values, size),
                "predictions": pa.FixedSizeListArray.from_arrays(
                    np.repeat(indices, 2).astype(np.float32), 2
                ),
            }
        )
        return table.select(columns)


def test_nothing_is_read_until_it_is_asked_for():
    run = Run({"a": [0, 1], "b": [0]})
    stored = StoredArrays([run])
    arrays = SlideArrays(stored.slides, stored.activations)
    assert (list(arrays), len(arrays), "a" in arrays, "c" in arrays) == (
        *(["a", "b"], 2, True, False),
    )
    assert "2 slides" in repr(arrays)
    assert run.reads == 0
    assert arrays["a"].shape == (2, 2)
    assert run.reads == 1


def test_arrays_may_be_written_to():
    found = StoredArrays([Run({"a": [0, 1]})]).activations("a")
    found -= found.mean(axis=0)


def test_a_layer_alone_comes_back_in_its_shape():
    stored = StoredArrays([Run({"a": [0, 3], "b": []}, shape=(3, 2, 2))])
    found = stored.activations("a")
    np.testing.assert_array_equal(found, np.arange(24).reshape(2, 3, 2, 2))
    assert stored.activations("b").shape == (0, 3, 2, 2)
    assert stored.predictions("b").shape == (0, 2)
    assert stored.locations("b").shape == (0, 2)
    assert stored.num_features == 12


def test_runs_side_by_side_have_the_tiles_that_all_have():
    """Tiles 1 and 4 are quarantined in one run each."""
    one = Run({"a": [0, 1, 2, 3, 5], "b": [0]})
    two = Run({"a": [0, 2, 3, 4, 5], "c": [0]}, shape=(3, 1, 1))
    stored = StoredArrays([one, two])
    assert stored.slides == ["a"]
    assert stored.num_features == 5
    assert stored.indices("a").tolist() == [0, 2, 3, 5]
    found = stored.activations("a")
    np.testing.assert_array_equal(
        found[:, :2], np.arange(10).reshape(5, 2)[[0, 2, 3, 4]]
    )
    np.testing.assert_array_equal(
        found[:, 2:], np.arange(15).reshape(5, 3)[[0, 1, 2, 4]]
    )
    np.testing.assert_array_equal(stored.predictions("a")[:, 0], [0, 2, 3, 5])
    np.testing.assert_array_equal(stored.locations("a")[:, 1], [0, 40, 60, 100])


def test_nothing_side_by_side_is_an_error():
    with pytest.raises(RunError, match="nothing to concatenate"):
        StoredArrays([])
    with pytest.raises(RunError, match="no slide is in all of x, y"):
        StoredArrays([Run({"a": [0]}, uri="x"), Run({"b": [0]}, uri="y")])


@pytest.mark.parametrize(
    ("slide", "stem"),
    [
        ("TCGA-01 b:2=x%", "TCGA-01 b:2=x%"),
        ("../../out", "..%2F..%2Fout"),
        ("/etc/x", "%2Fetc%2Fx"),
        ("..", "%2E%2E"),
        ("ärzt✓", "ärzt✓"),
    ],
)
def test_a_bags_name_is_the_slides_unless_it_would_be_a_path(tmp_path, slide, stem):
    values = np.arange(24, dtype=np.float16).reshape(2, 3, 4)
    write_bag(Store(tmp_path / "bags"), slide, values, np.zeros((2, 2)))
    names = sorted(p.name for p in tmp_path.rglob("*") if p.is_file())
    assert names == sorted([f"{stem}.pt", f"{stem}.index.npz"])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bags"]
    bag = torch.load(tmp_path / "bags" / f"{stem}.pt", weights_only=True)
    assert (bag.dtype, bag.shape) == (torch.float32, (2, 12))
