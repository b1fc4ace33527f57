"""Slides' names as people write them."""

import unicodedata

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raylatent.annotations import tidy
from raylatent.errors import AnnotationsError
from raylatent.source.names import (
    labels_given,
    labels_of_slides,
    match,
    match_said,
    stem,
    unmatched,
)

NFC, NFD = (unicodedata.normalize(form, "Müller 3") for form in ("NFC", "NFD"))


@pytest.mark.parametrize(
    ("written", "slide"),
    [
        (NFC, NFD),
        (NFD, NFC),
        ("s0 ", "s0"),
        ("\u00a0s0\ufeff", "s0"),
        ("s0", "s0 "),
        ("s0.svs", "s0"),
        ("s0.NDPI ", "s0"),
        ("s0.tfrecords", "s0"),
        ("slides/s0.svs", "s0"),
        ("C:\\slides\\s0.svs", "s0"),
        ("s0", "s0.svs"),
        ("s0.ome.tiff", "s0.ome"),
        ("a\u00a0b", "a b"),
        (7, "7"),
        (f"{NFD}.mrxs", NFC),
    ],
)
def test_a_name_is_found(written, slide):
    assert match([(written, "x")], ["other", slide]) == {slide: "x"}
    assert unmatched([str(written)], ["other", slide]) == []


@pytest.mark.parametrize(
    ("written", "slide"),
    [
        ("S0", "s0"),
        ("s0.v2", "s0"),
        ("s1", "s10"),
        ("07", "7"),
        (".svs", "s"),
        ("", "s"),
    ],
)
def test_another_name_is_not(written, slide):
    assert match([(written, "x")], [slide]) == {}
    assert unmatched([written], [slide]) == [written]


def test_a_name_that_is_there_is_no_other():
    slides = ["a", "a ", "a.svs"]
    given_all = [(name, name) for name in slides]
    assert match(given_all, slides) == {name: name for name in slides}
    assert match([("a", 1)], slides) == {"a": 1}


def test_what_fits_two_slides_is_never_guessed():
    with pytest.raises(AnnotationsError, match=r"fits two slides, 'M.*' and 'M.*u0308"):
        match([(f"{NFC} ", "x")], [NFC, NFD])
    with pytest.raises(AnnotationsError, match=r"two slides, 'a' and 'a\.svs'"):
        match([("a.ndpi", "x")], ["a", "a.svs"])


def test_one_slide_has_one_label_however_it_is_written():
    assert match([("a", "x"), ("a.svs", "x")], ["a"]) == {"a": "x"}
    with pytest.raises(AnnotationsError, match=r"'x' as 'a' and 'y' as 'a.svs'"):
        match([("a", "x"), ("a.svs", "y")], ["a"])


@given(st.lists(st.text(), unique=True, max_size=8))
def test_exact_names_find_themselves(names):
    assert match([(name, name) for name in names], names) == {n: n for n in names}
    if len({stem(name) for name in names}) == len(names):
        odd = [(f" {unicodedata.normalize('NFD', n)}\u00a0", tidy(n)) for n in names]
        assert match(odd, names) == {n: tidy(n) for n in names}


@pytest.mark.parametrize(
    ("written", "meant"),
    [("S0", "s0"), ("s_0", "s0"), ("7", "007"), ("slied_x", "slide_x")],
)
def test_what_was_perhaps_meant_is_said(written, meant, caplog):
    assert match_said(
        {written: 1, "b": 2}, [meant, "b"], what="label", where="the labels given"
    ) == {"b": 2}
    (line,) = caplog.messages
    assert line == (
        f"1 of 2 slides have no label in the labels given, as {meant!r} (is "
        f"{written!r} meant to be {meant!r}?)"
    )


def test_other_numbers_are_not_meant(caplog):
    match_said({"s01": 1, "s02": 2}, ["s01", "s11"], what="label", where="labels")
    assert "meant" not in caplog.text


def test_labels_of_no_slide_are_refused():
    with pytest.raises(AnnotationsError) as caught:
        labels_of_slides({"x": "tumor"}, ["a", "b"])
    assert str(caught.value) == (
        "the labels given have no label of any of the 2 slides, as 'a': slides must be "
        "called there as their files are, without the ending, and the names there are 'x'"
    )
    with pytest.raises(AnnotationsError, match="the names there are none"):
        labels_of_slides({}, ["a"])


FRAME = pd.DataFrame({"slide": ["a", "b", "c"], "site": ["x ", None, "y"]})


@pytest.mark.parametrize(
    "labels",
    [
        {"a": "x", "b": float("nan"), "c": " y"},
        FRAME.set_index("slide")["site"],
        FRAME.set_index("slide")["site"].astype("category"),
        FRAME.set_index("slide"),
        FRAME,
        pa.Table.from_pandas(FRAME),
        pl.DataFrame({"slide": ["a", "b", "c"], "site": ["x ", None, "y"]}),
        pd.Series({"a": "x", "b": pd.NA, "c": "y"}, dtype="string"),
        pd.Series(["x", "x", "", "y"], index=["a", "a", "b", "c"]),
    ],
    ids=lambda labels: type(labels).__name__,
)
def test_labels_as_tables_have_them(labels):
    assert labels_given(labels) == {"a": "x", "c": "y"}


def test_numbers_stay_numbers():
    assert labels_given(pd.Series([1.5, 2.0], index=[7, 8])) == {"7": 1.5, "8": 2.0}


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        (FRAME.assign(grade=1), r"a table with the columns 'site', 'grade': choose"),
        (FRAME[["slide"]], "a table with the columns none"),
        (pd.Series(["x", "y"], index=["a", "a"]), "'a' twice, as 'x' and as 'y'"),
        ("site", "given as str: give a mapping of slide to label"),
        (["x", "y"], "given as list"),
        (pl.Series(["x"]), "given as Series: give a mapping"),
    ],
)
def test_labels_that_are_none(labels, says):
    with pytest.raises(AnnotationsError, match=says):
        labels_given(labels)


@pytest.mark.parametrize("label", [["x"], ("x",), pd.Series(["x"])], ids=str)
def test_a_label_is_a_word_or_a_number(label):
    says = "the label of slide 'a' is a .*: give a word or a number"
    with pytest.raises(AnnotationsError, match=says):
        labels_given({"a": label})
