"""Which size of a pixel is used, and what is said where file and user differ."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raylatent.annotations import read_mpps
from raylatent.config import SlidesConfig
from raylatent.config.options import why_not_mpp
from raylatent.errors import (
    AnnotationsError,
    ConfigError,
    MissingMPPError,
    SourceError,
)
from raylatent.source.wsi import TileOptions
from raylatent.source.wsi.geometry import FileSize, GivenSize, mpp_of, remarks_on_mpp

SIZES = st.floats(0.02, 50)
NOBODY = FileSize()


def square(mpp, power=None):
    return FileSize(x=mpp, y=mpp, power=power)


@given(own=SIZES, of_slide=SIZES, of_all=SIZES)
def test_the_slides_own_column_then_the_file_then_all(own, of_slide, of_all):
    every = GivenSize(of_slide=of_slide, of_all=of_all)
    assert mpp_of("s", square(own), every) == of_slide
    assert mpp_of("s", NOBODY, every) == of_slide
    assert mpp_of("s", square(own), GivenSize(of_all=of_all)) == own
    assert mpp_of("s", NOBODY, GivenSize(of_all=of_all)) == of_all
    assert mpp_of("s", square(own), GivenSize()) == own


def test_a_magnification_is_told_but_never_reckoned_with():
    with pytest.raises(MissingMPPError, match=r"--mpp.*annotations$"):
        mpp_of("s", NOBODY, GivenSize())
    with pytest.raises(MissingMPPError, match=r"objective of 40x.*about 0\.25 µm$"):
        mpp_of("s", FileSize(power=40.0), GivenSize())


@pytest.mark.parametrize(
    ("value", "unit", "um"),
    [
        (250, "nanometers", "0.25"),
        (499, "nanometers", "0.499"),
        (0.00025, "millimeters", "0.25"),
        (0.000499, "millimeters", "0.499"),
        (0.000025, "centimeters", "0.25"),
    ],
)
def test_what_another_unit_looks_like(tmp_path, value, unit, um):
    said = f"it looks like {value:g} {unit}: {um} µm"
    assert why_not_mpp(value).endswith(said)
    with pytest.raises(SourceError, match=f"slide s: its file says {value:g}.*{said}"):
        mpp_of("s", square(value), GivenSize(of_all=0.5))
    assert mpp_of("s", square(value), GivenSize(of_slide=0.5)) == 0.5
    with pytest.raises(ConfigError, match=f"--mpp is {value:g} .*{said}"):
        SlidesConfig(out="run", mpp=value)
    with pytest.raises(ConfigError, match=f"^mpp is {value:g} .*{said}"):
        TileOptions(tile_px=224, tile_um=112, mpp_of_slide=value)
    csv = tmp_path / "a.csv"
    csv.write_text(f"slide,mpp\nx y,{value:f}\n")
    with pytest.raises(AnnotationsError, match=f"slide 'x y' the mpp .*{unit}"):
        read_mpps(str(csv))


@pytest.mark.parametrize("value", [math.nan, math.inf, -0.5, 0, 1e9, 1e-9])
def test_what_no_unit_explains(value):
    assert "0.02 to 50" in why_not_mpp(value)


@given(SIZES)
def test_what_can_be(value):
    assert why_not_mpp(value) is None


@pytest.mark.parametrize("text", ['"0,25"', "0.25um", "40x", "nan", "-1", "0"])
def test_what_is_no_number_of_micrometers_in_the_annotations(tmp_path, text):
    csv = tmp_path / "a.csv"
    csv.write_text(f"slide,mpp,label\ns,{text},x\n")
    with pytest.raises(AnnotationsError, match=r"slide 's' the mpp .*0\.25"):
        read_mpps(str(csv))


def test_pixels_that_are_not_square():
    with pytest.raises(SourceError, match=r"0\.25 µm along x and 0\.27 along y"):
        mpp_of("s", FileSize(x=0.25, y=0.27), GivenSize(of_all=0.25))
    assert mpp_of("s", FileSize(x=0.25, y=0.26), GivenSize()) == 0.25  # 4 %
    flat = FileSize(x=0.25, y=0.5)
    assert mpp_of("s", flat, GivenSize(of_slide=0.25)) == 0.25
    (said,) = remarks_on_mpp("s", flat, GivenSize(of_slide=0.25))
    assert "0.25 µm along x and 0.5 along y, you say 0.25" in said


@pytest.mark.parametrize(
    ("own", "given_size", "said"),
    [
        (square(0.05), GivenSize(of_slide=0.5), "you say 0.5 of this slide: mpp 0.5"),
        (square(0.499), GivenSize(of_slide=0.5), None),
        (
            square(0.05),
            GivenSize(of_all=0.5),
            "0.05 µm a pixel, which is used, not --mpp",
        ),
        (square(0.499), GivenSize(of_all=0.5), None),
        (square(0.23), GivenSize(of_all=0.25), "column mpp of --annotations overrules"),
        (square(0.05), GivenSize(), None),
        (square(0.05, 20), GivenSize(), "objective of 20x, at which a pixel is often"),
        (square(5.0, 20), GivenSize(), "about 0.5 µm: if the first is wrong"),
        (square(0.05, 20), GivenSize(of_slide=0.5), "mpp 0.5 is used"),
        (square(0.23, 20), GivenSize(), None),  # a camera that doubles, as MIRAX's
        (NOBODY, GivenSize(of_slide=0.5, of_all=0.4), None),
    ],
)
def test_what_is_said(own, given_size, said):
    found = remarks_on_mpp("s", own, given_size)
    assert len(found) == (said is not None)
    assert all(
        said in line and line.startswith("slide 's': its file") for line in found
    )
