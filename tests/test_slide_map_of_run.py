"""What a SlideMap of a run says of it, and needs of it."""

import numpy as np
import pytest

from raylatent.mapping.fit import fit_map
from raylatent.mapping.fitted_map import read_info
from raylatent.mapping.parameters import MapParameters
from raylatent.parts import part_name
from raylatent.slide_map import SlideMap
from raylatent.storage import Store
from tests.stored_maps import LAYER, write_map, write_run

ROWS = {"a": 50, "b": 30}


@pytest.fixture
def slide_map(tmp_path):
    return SlideMap.load(write_map(*write_run(tmp_path / "run", ROWS)))


def test_a_filtered_map_tells_of_its_own_points(slide_map, tmp_path):
    fitted = fit_map(slide_map.activations(), MapParameters(n_neighbors=5))
    counts = {"rows": 80, "outside": 1, "novel": 9}
    fitted = fitted.with_info(rows="of the run", points=counts)
    of_run = SlideMap(slide_map.points, fitted=fitted, run=slide_map.run, layer=LAYER)
    of_run.filter(["b"])
    of_run.save(tmp_path / "b")
    info = read_info(Store(tmp_path / "b"))
    frame = fitted.frame
    xy = np.stack([of_run.x, of_run.y], axis=1)
    assert info["points"] == {
        "rows": 30,
        "outside": sum(any(p < frame.lower) or any(p > frame.upper) for p in xy),
        "novel": sum(of_run.data["knn_distance"] > fitted.knn_threshold),
    }
    assert "rows" not in info
    opened = SlideMap.load(tmp_path / "b")
    opened.save(tmp_path / "again")
    assert read_info(Store(tmp_path / "again"))["points"] == info["points"]


def test_a_mosaic_of_points_needs_no_predictions(slide_map, caplog):
    options = {"num_tiles_x": 4, "tfrecords": {"a": "a.tfr", "b": "b.tfr"}}
    whole = slide_map.generate_mosaic(**options)
    assert whole.cells["predictions_mean"].null_count == 0
    run = slide_map.run
    run.store.delete(part_name(run.rows, "b", 0))
    lacking = slide_map.generate_mosaic(**options)
    assert "made without predictions: " in caplog.text
    assert lacking.cells["predictions_mean"].null_count == len(lacking.cells)
    assert lacking.cells["index"].equals(whole.cells["index"])
