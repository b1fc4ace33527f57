"""The same with whole slides: killed while tissue is found, and while tiles are read."""

import pytest

from raylatent.model.features import Features
from tests.engine import slide_files
from tests.faults.death import SLIDES_SEEDS
from tests.faults.jobs import OPTIONS

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.campaign,
]


@pytest.fixture(scope="module")
def slides(tmp_path_factory):
    """Three, of 14 units; one has a block that is broken."""
    folder = tmp_path_factory.mktemp("slides")
    for i, name in enumerate("abc"):
        slide_files.write_slide(folder / f"{name}.tif", i, jpeg=name == "b")
    slide_files.harm(folder / "b.tif", row=4, col=5)
    return folder


@pytest.fixture(scope="module")
def expected(slides, small_model):
    """The plain loop's rows and quarantine."""
    features = Features(small_model, include_preds=True, batch_size=16, device="cpu")
    return {
        path.stem: slide_files.plain_rows(features, slide_files.plain_slide(path), i)
        for i, path in enumerate(sorted(slides.iterdir()))
    }


@pytest.fixture
def arguments(slides, slow_model):
    given = ("activations", "--slides", slides, "--model", slow_model)
    return (*given, "--tile-um", 48, *OPTIONS)


@pytest.mark.parametrize("seed", SLIDES_SEEDS)
def test_killed_at_a_moment_drawn_from_a_seed(disturb, expected, seed):
    disturb(f"slides {seed}", expected=expected)
