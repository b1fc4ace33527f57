"""Grids, tissue and filters against what Slideflow 3.0.2 gave for the same slides.

Its grids are x first, and so are transposed here; its tissue is found on pictures that
another library resampled, so that a few cells may differ.
"""

from itertools import product

import numpy as np
import pytest

from raylatent.source.filebytes import read_records
from raylatent.source.index import index_tfrecord
from raylatent.source.record import parse_example
from raylatent.source.wsi import WSI

SAME_CELLS = 0.97
CASES = {
    "um24": ("wsi_b.tif", {"tile_um": 24}),
    "mag20x": ("wsi_b.tif", {"tile_um": "20x"}),
    "a_um96": ("wsi_a.tif", {"tile_um": 96, "mpp": 0.5}),
}
OF_WSI_B = ("um24", "mag20x")
"""Cases of which Slideflow's sizes, whole grids and both kinds of tissue are known."""


@pytest.fixture(scope="module")
def grids(goldens):
    with np.load(goldens / "wsi_grids.npz") as archive:
        return dict(archive)


@pytest.fixture(scope="module")
def features(goldens):
    with np.load(goldens / "wsi_features.npz") as archive:
        return dict(archive)


@pytest.fixture
def opened(goldens):
    """opened(name of a case) is its slide, opened in the same way."""

    def wsi(name):
        file, options = CASES[name]
        return WSI(goldens / file, tile_px=96, **options)

    return wsi


@pytest.fixture
def wsi_a(goldens):
    return WSI(goldens / "wsi_a.tif", tile_px=96, tile_um=96, mpp=0.5)


@pytest.mark.parametrize("name", CASES)
def test_the_places_of_tiles(name, opened, grids):
    wsi = opened(name)
    np.testing.assert_array_equal(wsi.coord, grids[f"{name}/coord"])
    shape = (wsi.coord[:, 3].max() + 1, wsi.coord[:, 2].max() + 1)
    assert wsi.grid.shape == shape
    assert wsi.grid.all()


@pytest.mark.parametrize("name", OF_WSI_B)
def test_the_grid_and_the_centers(name, opened, grids):
    wsi = opened(name)
    np.testing.assert_array_equal(wsi.grid, grids[f"{name}/grid"].T)
    centers = grids[f"{name}/centers"]
    np.testing.assert_array_equal(centers[:, 2:], wsi.coord[:, 2:])
    np.testing.assert_array_equal(wsi.locations, centers[:, :2])


@pytest.mark.parametrize("name", OF_WSI_B)
def test_windows_strides_and_levels(name, opened, grids):
    wsi = opened(name)
    level = wsi.levels[wsi.downsample_level]
    found = [
        wsi.mpp,
        wsi.full_extract_px,
        wsi.full_extract_px / level["downsample"],
        wsi.full_stride,
        level["level"],
        level["downsample"],
        wsi.tile_um,
    ]
    assert found == grids[f"{name}/meta"].tolist()


@pytest.mark.parametrize(
    ("name", "method"),
    [*product(OF_WSI_B, ["otsu", "blur"]), ("a_um96", "otsu")],
)
def test_the_tissue(name, opened, grids, method):
    wsi = opened(name)
    golden = grids[f"{name}/grid_{method}"].T
    wsi.qc(method)
    assert wsi.grid.shape == golden.shape
    assert (wsi.grid == golden).mean() >= SAME_CELLS
    assert 0 < wsi.num_tiles < wsi.grid.size


def test_the_gray_filter(wsi_a, features):
    wsi_a.filter()
    np.testing.assert_array_equal(wsi_a.grid, ~features["mask"])


def test_otsu_and_the_gray_filter(wsi_a, features):
    wsi_a.qc("otsu")
    wsi_a.filter()
    masked = np.isnan(features["otsu_f32"])
    assert (masked.all(axis=2) == masked.any(axis=2)).all()
    np.testing.assert_array_equal(wsi_a.grid, ~masked.any(axis=2))


def test_the_tiles_that_slideflow_extracted(wsi_a, goldens):
    file = str(goldens / "tfrecords_wsi" / "96px_96um" / "wsi_a.tfrecords")
    index = index_tfrecord(file)
    records = [
        parse_example(payload)
        for payload in read_records(file, index.offsets, index.lengths)
    ]
    extracted = [(record.loc_x, record.loc_y) for record in records]
    assert len(set(extracted)) == len(extracted)
    wsi_a.filter()
    assert set(extracted) == set(map(tuple, wsi_a.locations.tolist()))
