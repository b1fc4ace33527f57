"""Which tiles show tissue: the rules, on arrays."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from raylatent.errors import ConfigError
from raylatent.source import tissue
from raylatent.source.slides import find_slides, local_slide
from raylatent.source.tissue import CellFractions, TissueOptions
from raylatent.source.wsi import SlideHandle, thumbnail
from tests.source.scanner_slides import write_dicom, write_svs
from tests.source.synthetic_slides import blob, pyramid, write_slide

PIXELS = hnp.arrays(
    np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9), st.just(3))
)


def test_reasons_have_their_numbers():
    numbers = (tissue.KEPT, tissue.BLUR, tissue.OTSU, tissue.GRAY, tissue.WHITE)
    assert [tissue.REASONS[n] for n in numbers] == [
        *("kept", "blur", "otsu", "gray", "white")
    ]


@given(hnp.arrays(np.uint8, st.integers(2, 60)))
def test_otsus_threshold_parts_best(values):
    def between(threshold):
        low, high = values[values <= threshold], values[values > threshold]
        if not len(low) or not len(high):
            return 0.0
        return len(low) * len(high) * (low.mean() - high.mean()) ** 2

    found = between(tissue.otsu_threshold(values))
    assert found == pytest.approx(max(map(between, range(256))))


@given(PIXELS)
def test_saturation_is_that_of_hsv(pixels):
    high = pixels.max(axis=2).astype(float)
    low = pixels.min(axis=2)
    expected = 255 * (high - low) / np.maximum(high, 1)
    assert np.abs(tissue.saturation(pixels) - expected).max() <= 0.5 + 1e-4


@given(PIXELS, st.floats(0, 1))
def test_gray_is_little_saturation(pixels, threshold):
    high = pixels.max(axis=2).astype(np.float32)
    low = pixels.min(axis=2)
    expected = (high - low) < np.float32(threshold) * np.maximum(high, 1)
    np.testing.assert_array_equal(tissue.gray_mask(pixels, threshold), expected)


def test_white_is_bright():
    pixels = np.array([[[231, 231, 231], [230, 230, 230], [255, 255, 0]]], np.uint8)
    assert tissue.white_mask(pixels, 230).tolist() == [[True, False, False]]


def test_background_is_masked_and_tissue_is_not():
    pixels = np.full((60, 80, 3), 245, np.uint8)
    pixels[20:40, 30:60] = (180, 60, 140)
    mask = tissue.otsu_mask(pixels)
    assert not mask[24:36, 34:56].any()
    assert mask[:15].all()
    removed = np.zeros((60, 80), bool)
    removed[:, :45] = True
    assert tissue.otsu_mask(pixels, removed)[:, :40].all()


def test_blur_is_where_edges_are_weak():
    rng = np.random.default_rng(0)
    pixels = np.full((120, 240, 3), 200, np.uint8)
    pixels[:, :120] = rng.integers(0, 256, (120, 120, 3))
    mask = tissue.blur_mask(pixels, TissueOptions(qc="blur"))
    assert not mask[:, :100].any()
    assert mask[:, 140:].all()


@given(st.data())
def test_fractions_do_not_depend_on_how_the_mask_is_cut(data):
    height, width = (data.draw(st.integers(1, 30)) for _ in range(2))
    mask = data.draw(hnp.arrays(bool, (height, width)))
    window = data.draw(st.integers(1, 12))
    ys, xs = (np.arange(0, n, data.draw(st.integers(1, 9))) for n in (height, width))
    spans = [
        tissue.cell_spans(edges, window, 1.0, size)
        for edges, size in ((ys, height), (xs, width))
    ]
    cells = CellFractions(*spans)
    step = data.draw(st.integers(1, 31))
    for top in range(0, height, step):
        for left in range(0, width, step):
            cells.add(mask[top : top + step, left : left + step], top, left)
    expected = [[mask[y : y + window, x : x + window].mean() for x in xs] for y in ys]
    np.testing.assert_allclose(cells.fractions(), expected)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"qc": "magic"}, "magic"),
        ({"grayspace_fraction": 1.5}, "grayspace_fraction is 1.5"),
        ({"filter_threshold": -0.1}, "filter_threshold"),
    ],
)
def test_nonsense_is_refused(options, said):
    with pytest.raises(ConfigError, match=said):
        TissueOptions(**options)


def on(background, *, tissue=(180, 60, 140), frame=None, share=0.3):
    """A picture of a slide: noise around a background, tissue, perhaps a frame."""
    rng = np.random.default_rng(0)
    pixels = np.clip(
        np.asarray(background) + rng.normal(0, 6, (200, 300, 3)), 0, 255
    ).astype(np.uint8)
    n = round((share * 200 * 300) ** 0.5)
    spots = rng.integers(-40, 40, (n, n, 1))
    pixels[20 : 20 + n, 30 : 30 + n] = np.clip(np.asarray(tissue) + spots, 0, 255)
    if frame is not None:
        for edge in (pixels[:60], pixels[-60:], pixels[:, :60], pixels[:, -60:]):
            edge[:] = frame
    return pixels


@pytest.mark.parametrize(
    "pixels",
    [
        on((4, 4, 20), tissue=(10, 20, 200)),  # DAPI
        on((0, 0, 0), tissue=(20, 180, 40)),
        on((12, 12, 12), tissue=(130, 130, 130)),  # one channel as gray
        on((9, 9, 9), tissue=(165, 165, 165)),  # of which some is as bright as glass
        on((30, 30, 30), tissue=(60, 60, 60), share=0.05),
        np.zeros((20, 30, 3), np.uint8),
    ],
)
def test_a_dark_background_looks_like_fluorescence(pixels):
    assert tissue.is_dark_field(pixels)


@pytest.mark.parametrize(
    "pixels",
    [
        on((244, 244, 244)),
        on((205, 200, 190)),  # old glass
        on((244, 244, 244), tissue=(150, 80, 130), frame=(0, 0, 0), share=0.5),
        on((244, 244, 244), share=0.0, frame=(3, 3, 3)),
        on((244, 244, 244), frame=(0, 0, 0)),  # most of it is a black frame
        on((244, 244, 244), tissue=(70, 45, 30), share=0.5),  # dark brown of IHC
        on((110, 70, 60), tissue=(70, 45, 40)),  # tissue without any glass
        np.full((20, 30, 3), 255, np.uint8),
    ],
)
def test_bright_fields_do_not(pixels):
    assert not tissue.is_dark_field(pixels)


def test_slides_of_several_scanners(tmp_path):
    write_svs(tmp_path / "a.svs", blob(700, 500))
    write_svs(tmp_path / "b.svs", blob(700, 500, seed=1), jpeg2000=True)
    write_dicom(tmp_path / "c", blob(700, 500, seed=2), mpp=28.97)
    write_slide(tmp_path / "dark.tif", pyramid(on((4, 4, 20), tissue=(10, 20, 200)), 2))
    found = {
        slide: tissue.is_dark_field(
            np.asarray(thumbnail(SlideHandle(local_slide(uri))))
        )
        for slide, uri in find_slides([str(tmp_path)]).items()
    }
    assert found == {"a": False, "b": False, "c": False, "dark": True}
