"""The annotations file."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raylatent import annotations
from raylatent.annotations import (
    read_annotations,
    read_labels,
    read_mpps,
    slide_labels,
    tidy,
)
from raylatent.errors import AnnotationsError


@pytest.fixture
def write(tmp_path):
    def written(content):
        path = tmp_path / "a ü.csv"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(path)

    return written


def test_values_stay_strings(write):
    rows = read_annotations(write("slide,grade\n007,1\n2024-01-31,2.0\nTrue,\n"))
    assert rows == [
        {"slide": "007", "grade": "1"},
        {"slide": "2024-01-31", "grade": "2.0"},
        {"slide": "True", "grade": ""},
    ]


@pytest.mark.parametrize(
    "content",
    [
        "\ufeffslide,x\ra,1\r",
        "slide,x\r\na,1\r\n",
        'x,"slide"\n1,a\n',
        "slide,x\n\na,1\n\n",
        "slide,x,,\na,1,,,,\n",
        "\ufeffslide,x\na,1",
    ],
)
def test_kinds_of_csv(write, content):
    assert read_labels(write(content), "x") == {"a": "1"}


@pytest.mark.parametrize(
    "content",
    [
        "sep=;\r\nslide;x\r\na;1\r\n",
        '"sep=,"\nslide,x\na,1\n',
        "SEP=\t\nslide\tx\na\t1\n",
        "slide;x\na;1\n",
        "slide\tx\na\t1\n",
        "note|slide|x\n,;|a|1\n",
        "\ufeffslide;x;\na;1;\n",
        "slide;x\na;1\n".encode("utf-16"),
        "slide\tx\r\na\t1\r\n".encode("utf-32"),
        "\ufeffslide\tx\na\t1\n".encode("utf-16-be"),
        " slide , x\u00a0\na,1\n",
        "slide,x\na,\u200b1\u00a0\n",
        'slide, x\na, "1"\n',
    ],
)
def test_tables_as_spreadsheets_write_them(write, content):
    assert read_labels(write(content), "x") == {"a": "1"}


def test_another_delimiter_is_said_and_decides_alone(write, caplog):
    caplog.set_level("INFO")
    path = write("slide;mpp\na;0,25\n")
    assert read_annotations(path) == [{"slide": "a", "mpp": "0,25"}]
    assert (
        f"annotations {path}: values are taken as divided by a semicolon" in caplog.text
    )


def test_spaces_and_marks_that_nobody_sees_make_no_label(write, caplog):
    text = "slide,x\na,tumor\nb,tumor \nc,\u00a0tumor\ufeff\nd,Mu\u0308ller\ne, \n"
    assert read_labels(write(text), "x") == {
        **dict.fromkeys("abc", "tumor"),
        "d": "M\u00fcller",
    }
    assert not caplog.messages


def test_labels_that_look_alike_or_like_none_stay_and_are_said(write, caplog):
    path = write("slide,x\na,Tumor\nb,tumor\nc,grade  2\nd,grade 2\ne,NA\nf,nan\n")
    assert set(read_labels(path, "x").values()) == {
        *("Tumor", "tumor", "grade  2", "grade 2", "NA", "nan")
    }
    alike, missing = caplog.messages
    assert "'Tumor' and 'tumor'; 'grade  2' and 'grade 2' differ in case" in alike
    assert "'NA' or 'nan' is taken as a label (slides that have it: 2)" in missing


@given(st.text())
def test_tidy_again_is_the_same(text):
    once = tidy(text)
    assert tidy(once) == once
    assert once == once.strip()
    assert tidy(unicodedata.normalize("NFD", text)) == tidy(text)
    assert tidy(f"\u200b {text}\u00a0\ufeff") == once


def test_quotes_commas_and_lines_in_values(write):
    rows = read_annotations(write('slide,x\n"a,b","two\nlines"\n✓,"say ""hi"""\n'))
    assert [row["slide"] for row in rows] == ["a,b", "✓"]
    assert [row["x"] for row in rows] == ["two\nlines", 'say "hi"']


def test_short_rows_are_filled(write):
    assert read_annotations(write("slide,x,y\na,1\n")) == [
        {"slide": "a", "x": "1", "y": ""}
    ]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", r"no column 'slide' \(they have none\)"),
        ("Slide,x\na,1\n", r"\(they have 'Slide', 'x'\): call 'Slide' 'slide'"),
        ("slide:x\na:1\n", r"they have 'slide:x'"),
        ("slide,x,x\na,1,2\n", "2 columns 'x': rename all but one"),
        (
            b"slide,x\na,M\xfcller\n",
            "line 2 has the byte 0xFC, which is 'ü' in Windows",
        ),
        (b"\xff\xfes\x00l\x00", "no column 'slide'"),
        (b"\xff\xfes", "not in UTF-16: line 1 has the byte 0x73; save"),
        (
            b"PK\x03\x04\x14\x00",
            r"are a spreadsheet \(.xlsx, .ods\) or a zip, no CSV: save",
        ),
        (b"\x1f\x8b\x08", "gzip'ed"),
        (b"s\x00l\x00", "are no CSV: some of their bytes are zero"),
        ('slide,x\n"a,1\n', "are no CSV: .*; save the table as CSV in UTF-8"),
        (
            "slide,x\na,b\nb,tumor, grade 2\n",
            "row 2 below the header has 3 values for 2",
        ),
        ("slide,x\na," + "b" * 200_000 + "\n", "field larger than"),
    ],
)
def test_what_is_refused(write, content, says):
    path = write(content)
    with pytest.raises(AnnotationsError, match=says) as caught:
        read_annotations(path)
    assert path in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_or_a_folder(tmp_path):
    with pytest.raises(AnnotationsError, match=r"none\.csv cannot be read"):
        read_annotations(str(tmp_path / "none.csv"))
    with pytest.raises(AnnotationsError, match=r"cannot be read.*directory"):
        read_annotations(str(tmp_path))


def test_many_slides(write):
    n = 100_000
    text = "slide,x\n" + "".join(f"{i:07},{i % 3}\n" for i in range(n))
    labels = read_labels(write(text), "x")
    assert len(labels) == n
    assert labels["0000007"] == "1"


def test_a_file_that_cannot_be_a_csv_is_not_read(write, monkeypatch):
    monkeypatch.setattr(annotations, "MAX_BYTES", 10)
    with pytest.raises(AnnotationsError, match="have 12 bytes: is it a CSV"):
        read_annotations(write("slide,x\na,1\n"))


def test_a_header_and_as_many_rows_as_may_be(write, monkeypatch):
    monkeypatch.setattr(annotations, "MAX_ROWS", 2)
    assert len(read_annotations(write("slide,x\na,1\nb,2\n"))) == 2
    with pytest.raises(AnnotationsError, match="more than 2 rows"):
        read_annotations(write("slide,x\na,1\nb,2\nc,3\n"))


@pytest.mark.parametrize(
    "content",
    ["slide" + "," * 200, "slide,x\n" + "," * 200, "slide" + "," * 50 + "\na" * 9],
)
def test_too_many_cells_are_refused(write, monkeypatch, content):
    """Also those that short rows are filled with."""
    monkeypatch.setattr(annotations, "MAX_CELLS", 100)
    with pytest.raises(AnnotationsError, match="more than 100 cells"):
        read_annotations(write(content))


def test_labels_of_slides():
    rows = [
        {"slide": "a", "x": "1"},
        {"slide": "a", "x": "1"},
        {"slide": "b", "x": ""},
        {"slide": "", "x": "2"},
    ]
    assert slide_labels(rows, "x", where="f") == {"a": "1"}
    assert slide_labels([], "x", where="f") == {}
    with pytest.raises(AnnotationsError, match="f have no column 'y'"):
        slide_labels(rows, "y", where="f")


def test_two_labels_of_one_slide(write):
    path = write("slide,x\na,1\nb,1\na,2\n")
    with pytest.raises(
        AnnotationsError, match="slide 'a' two labels in 'x': '1' and '2'"
    ):
        read_labels(path, "x")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("slide,mpp\ns,0,5\n", "3 values for 2 columns"),
        ('slide,mpp\ns,"0,5"\n', "'0,5': give micrometers a pixel with a point"),
        ("slide;mpp\ns;0,5\n", "'0,5': give micrometers a pixel with a point"),
        ("slide,mpp\ns,0_5\n", "'0_5': give micrometers a pixel with a point"),
        ("slide,mpp\ns,NA\n", "or leave the cell empty"),
        ("slide,mpp\ns,nan\n", "cannot be"),
        ("slide,mpp\ns,250\n", r"250 nanometers: 0\.25 µm"),
    ],
)
def test_sizes_of_pixels_that_cannot_be(write, content, says):
    with pytest.raises(AnnotationsError, match=says):
        read_mpps(write(content))


def test_empty_cells_beyond_the_columns_are_nothing(write):
    assert read_mpps(write("slide,mpp\ns,0.5,,,\nt,,,\n")) == {"s": 0.5}


def test_a_column_that_is_nearly_called_mpp_is_said(write, caplog):
    assert read_mpps(write("slide,MPP (µm)\ns,0.5\n")) == {}
    assert "the column 'MPP (µm)' is not read" in caplog.text
    caplog.clear()
    assert read_mpps(write("slide,mpp ,MPP\ns,0.5,9\n")) == {"s": 0.5}
    assert not caplog.text
