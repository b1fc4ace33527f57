"""The annotations file."""

import pytest

from raylatent import annotations
from raylatent.annotations import read_annotations, read_labels, slide_labels
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
        ("Slide,x\na,1\n", r"no column 'slide' \(they have 'Slide', 'x'\)"),
        ("slide;x\na;1\n", r"they have 'slide;x'"),
        ("slide,x,x\na,1,2\n", "2 columns 'x': rename all but one"),
        (b"slide,x\n\xe9,1\n", "no CSV in UTF-8, save them as such"),
        ("slide,x\na,1\n".encode("utf-16"), "no CSV in UTF-8"),
        ('slide,x\n"a,1\n', "no CSV in UTF-8"),
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
