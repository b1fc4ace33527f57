"""Which whole slides there are, what they are called, what tells that they changed."""

import os

import pytest

from raylatent.errors import SourceError, StorageError
from raylatent.source import slides
from raylatent.source.slides import (
    dicom_files,
    find_slides,
    local_slide,
    slide_files,
    slide_name,
    slide_stat,
)
from raylatent.source.wsi.geometry import FileSize, file_size


@pytest.fixture
def folder(tmp_path):
    for name in ("a.SVS", "deep/b.ndpi", "._c.svs", "notes.txt", "d/1.dcm", "d/2.dcm"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    return tmp_path


def test_slides_of_a_folder(folder):
    found = find_slides([str(folder)])
    assert found == {
        "a": str(folder / "a.SVS"),
        "b": str(folder / "deep/b.ndpi"),
        "d": str(folder / "d"),
    }


def test_dicom_is_called_as_its_folder(folder):
    assert find_slides([str(folder / "d/2.dcm")]) == {"d": str(folder / "d")}
    assert slide_name(str(folder / "d")) == slide_name(str(folder / "d/1.dcm")) == "d"
    assert len(slide_files(str(folder / "d"))) == 2
    assert local_slide(str(folder / "d")).path.suffix == ".dcm"
    assert len(dicom_files(folder / "d")) == 2


DICOM = bytes(128) + b"DICM" + bytes(99)


@pytest.mark.parametrize(
    "names",
    [
        ("IM0001", "IM0002"),
        ("1.2.840.10008.5.1", "1.2.840.10008.5.2"),
        ("a.dicom", "B.IMA"),
        ("1.dcm", "2"),
    ],
)
def test_dicom_without_the_usual_ending(tmp_path, names):
    slide = tmp_path / "slides" / "S-07"
    slide.mkdir(parents=True)
    for size, name in enumerate(names, 1):
        (slide / name).write_bytes(DICOM + bytes(size))
    (slide / "LICENSE").write_bytes(b"no DICOM")
    (slide / "empty").write_bytes(b"")
    (slide / "DICOMDIR").write_bytes(DICOM)
    (slide / ".IM0003").write_bytes(DICOM)
    assert find_slides([str(tmp_path)]) == {"S-07": str(slide)}
    assert find_slides([str(slide / names[0])]) == {"S-07": str(slide)}
    files = sorted(str(slide / name) for name in names)
    assert slide_files(str(slide)) == slide_files(str(slide / names[0])) == files
    assert [file.name for file in dicom_files(slide)] == list(reversed(names))
    assert local_slide(str(slide)).path == slide / names[1]
    assert slide_stat(str(slide)).size == 2 * len(DICOM) + 3


def test_a_folder_of_many_other_files_is_not_read(tmp_path, monkeypatch):
    opened = []
    real = slides.open_input
    monkeypatch.setattr(slides, "open_input", lambda f: opened.append(f) or real(f))
    for i in range(40):
        (tmp_path / f"tile{i}.png").write_bytes(DICOM)
        (tmp_path / f"{i:04}").write_bytes(b"other")
    (tmp_path / "s.svs").write_bytes(b"slide")
    assert find_slides([str(tmp_path)]) == {"s": str(tmp_path / "s.svs")}
    assert len(opened) == 16


def test_other_files_of_a_folder_are_said(tmp_path):
    for name in ("a.zip", "b.ZIP", "README"):
        (tmp_path / name).write_bytes(b"")
    says = r"holds no slide .*\(its files by ending: 2 \.zip, 1 no\): give the folder"
    with pytest.raises(SourceError, match=says):
        find_slides([str(tmp_path)])


def test_a_named_file_is_a_slide_whatever_its_ending(folder):
    assert list(find_slides([str(folder / "notes.txt")])) == ["notes.txt"]


def test_two_slides_of_one_name_are_refused(folder):
    (folder / "deep/a.tif").write_bytes(b"")
    with pytest.raises(SourceError, match="two slides are called 'a'"):
        find_slides([str(folder)])


def test_no_slide_and_no_folder_are_said(tmp_path):
    with pytest.raises(SourceError, match="holds no slide"):
        find_slides([str(tmp_path)])
    with pytest.raises(SourceError, match="no such file or folder"):
        find_slides([str(tmp_path / "gone")])
    with pytest.raises(StorageError, match="no such slide"):
        slide_stat(str(tmp_path / "gone.svs"))
    with pytest.raises(SourceError, match="no slide"):
        local_slide(str(tmp_path))


def test_all_files_of_a_slide_tell_whether_it_changed(folder, tmp_path):
    before = slide_stat(str(folder / "d"))
    assert before.size == len("d/1.dcm") + len("d/2.dcm")
    os.utime(folder / "d/1.dcm", ns=(1, 1 << 62))
    assert slide_stat(str(folder / "d")) != before
    (tmp_path / "m.mrxs").write_bytes(b"head")
    alone = slide_stat(str(tmp_path / "m.mrxs"))
    (tmp_path / "m").mkdir()
    (tmp_path / "m/Data.dat").write_bytes(b"data")
    assert slide_stat(str(tmp_path / "m.mrxs")).size == alone.size + 4


@pytest.mark.parametrize(
    ("properties", "size"),
    [
        ({}, None),
        ({"openslide.mpp-x": "0.25", "openslide.mpp-y": "0.26"}, (0.25, 0.26)),
        ({"openslide.mpp-y": "0.26"}, 0.26),
        ({"openslide.mpp-x": "nan"}, None),
        ({"openslide.mpp-x": "0"}, None),
        ({"openslide.mpp-x": "28.97", "openslide.vendor": "dicom"}, 28.97),
        ({"openslide.mpp-x": "352.8", "openslide.vendor": "generic-tiff"}, None),
        ({"tiff.XResolution": "25.4", "tiff.ResolutionUnit": "inch"}, None),
        ({"tiff.XResolution": "72", "tiff.ResolutionUnit": "inch"}, None),
        ({"tiff.XResolution": "50800", "tiff.ResolutionUnit": "inch"}, 0.5),
        ({"tiff.XResolution": "40000", "tiff.ResolutionUnit": "centimeter"}, 0.25),
        ({"tiff.XResolution": "40000"}, None),
        (
            {
                "tiff.XResolution": "20000",
                "tiff.YResolution": "40000",
                "tiff.ResolutionUnit": "centimeter",
            },
            (0.5, 0.25),
        ),
    ],
)
def test_the_size_of_a_pixel_as_the_file_says_it(properties, size):
    found = file_size(properties)
    x, y = size if isinstance(size, tuple) else (size, size)
    assert found == FileSize(x=x, y=y)
    power = {"openslide.objective-power": "20"}
    assert file_size({**properties, **power}) == FileSize(x=x, y=y, power=20.0)
