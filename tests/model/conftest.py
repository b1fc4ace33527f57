"""Fixtures for the features of whole slides."""

import pytest

from raylatent.model import Features
from raylatent.source.wsi import WSI
from tests.engine.slide_files import harm, write_slide

PX = 96


@pytest.fixture(scope="session")
def features(small_model):
    """Makes the small network's features; each set of options once."""
    made = {}

    def make(**options):
        key = repr(options)
        if key not in made:
            made[key] = Features(small_model, device="cpu", **options)
        return made[key]

    return make


@pytest.fixture(scope="session")
def golden_features(golden_model):
    """Makes the features of the network that Slideflow's goldens were made with."""
    return lambda **options: Features(golden_model, device="cpu", **options)


@pytest.fixture
def wsi(large_slide):
    """The slide's whole grid of 11 x 15."""
    return WSI(large_slide, PX, 96, mpp=0.5)


@pytest.fixture
def small(tmp_path):
    """Makes a small slide whose tiles are as the file's level 0 has them."""

    def make(*, jpeg=False, harmed=(), tile_px=PX, **options):
        path = write_slide(tmp_path / "small.tif", 1, jpeg=jpeg)
        for row, col in harmed:
            harm(path, row=row, col=col)
        return WSI(path, tile_px, tile_px / 2, **options)

    return make
