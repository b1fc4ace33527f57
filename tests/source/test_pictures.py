"""Folders of pictures: which slides they are of, their order, and what changes them."""

import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from raylatent import schema
from raylatent.errors import ConfigError, ContentError, SourceError, StorageError
from raylatent.source.kinds import KINDS, find_sources, first_tile_px, sorted_paths
from raylatent.source.pictures import (
    Listing,
    Pattern,
    PictureFolders,
    find_pictures,
    list_pictures,
)
from raylatent.source.protocol import number_sources

KIND = PictureFolders()
CLASS_FOLDERS = r"(?P<label>[^/]+)/(?P<slide>[^/_]+)_x(?P<x>-?\d+)_y(?P<y>-?\d+)\.png$"


def put(folder, *names, side=8):
    """Small pictures of one color each."""
    for i, name in enumerate(names):
        path = Path(folder, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (side, side), (i, 2 * i, 255 - i)).save(path)
    return str(folder)


def units_of(request, unit_tiles=100):
    source, plans = KIND.index(None, request.slide, request, unit_tiles)
    (source,) = number_sources([source], {request.slide: 3})
    return source, [KIND.load(None, plan) for plan in plans]


def tiles_of(unit):
    return [tile for chunk in unit.chunks() for tile in chunk.tiles()]


def test_a_slide_is_the_first_folder_below(tmp_path):
    root = put(tmp_path, "b/2.png", "b/deep/1.JPG", "A é/x.tif", "b/10.jpeg")
    found = find_pictures([root])
    assert list(found) == ["A é", "b"]
    _, (unit,) = units_of(found["b"])
    columns = unit.columns()
    assert columns[schema.NAME].to_pylist() == ["10.jpeg", "2.png", "deep/1.JPG"]
    assert columns[schema.LABEL].to_pylist() == [None] * 3


def test_a_flat_folder_is_one_slide(tmp_path):
    root = put(tmp_path / "one", "2.png", "1.png")
    ((slide, request),) = find_pictures([root]).items()
    assert slide == "one"
    assert list_pictures(request).names == ["1.png", "2.png"]


def test_what_lies_beside_folders_is_a_slide_of_its_own(tmp_path):
    root = put(tmp_path / "all", "1.png", "s/2.png")
    found = find_pictures([root])
    names = {slide: list_pictures(one).names for slide, one in found.items()}
    assert names == {"all": ["1.png"], "s": ["2.png"]}
    put(tmp_path / "all", "all/3.png")
    with pytest.raises(SourceError, match="are called 'all'"):
        find_pictures([root])


def test_a_pattern_tells_slide_label_and_place(tmp_path):
    root = put(
        tmp_path,
        *("TUM/s1_x100_y-7.png", "NORM/s1_x3_y4.png", "NORM/s2_x5_y6.png"),
        "NORM/other.png",
    )
    found = find_pictures([root], CLASS_FOLDERS)
    assert list(found) == ["s1", "s2"]
    source, (unit,) = units_of(found["s1"])
    assert (source.slide, source.uri, source.tile_px) == ("s1", root, 8)
    columns = unit.columns()
    assert columns[schema.NAME].to_pylist() == [
        "NORM/s1_x3_y4.png",
        "TUM/s1_x100_y-7.png",
    ]
    assert columns[schema.LABEL].to_pylist() == ["NORM", "TUM"]
    assert [(t.loc_x, t.loc_y) for t in tiles_of(unit)] == [(3, 4), (100, -7)]


def test_a_pattern_without_slide_takes_the_first_folder(tmp_path):
    root = put(tmp_path / "r", "s1/TUM/a.png", "s1/NORM/b.png", "flat_NORM.png")
    found = find_pictures([root], r"(?P<label>TUM|NORM)")
    assert list(found) == ["r", "s1"]
    _, (unit,) = units_of(found["s1"])
    assert unit.columns()[schema.LABEL].to_pylist() == ["NORM", "TUM"]
    _, (flat,) = units_of(found["r"])
    assert flat.columns()[schema.NAME].to_pylist() == ["flat_NORM.png"]


@pytest.mark.parametrize(
    ("pattern", "error", "says"),
    [
        ("(?P<slide>", ConfigError, "is no regular expression"),
        ("(?P<patient>x)", ConfigError, "has a group 'patient': the groups are slide"),
        ("nothing", SourceError, "fits no picture below .* the first is 's/1.png'"),
        ("(?P<slide>q)?1", SourceError, "finds no slide in 's/1.png'"),
        (r"(?P<x>\w+)\.png", SourceError, "finds x='99999999999_' in 's/99"),
        (r"(?P<y>\d+)_", SourceError, "y='99999999999'"),
    ],
)
def test_patterns_that_make_no_sense(tmp_path, pattern, error, says):
    root = put(tmp_path, "s/1.png", "s/99999999999_.png", "s/two.png")
    with pytest.raises(error, match=says):
        find_pictures([root], pattern)


@pytest.mark.parametrize(
    ("files", "path", "says"),
    [
        ([], "gone", "no such folder: .*gone"),
        (["a/notes.txt", "b.csv"], "", "holds no picture .* by ending: 1 .txt, 1 .csv"),
        (["a.txt"], "a.txt", r"a\.txt is a file: --tiles takes folders of pictures"),
    ],
)
def test_folders_without_pictures(tmp_path, files, path, says):
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    with pytest.raises(SourceError, match=says):
        find_pictures([str(tmp_path / path)])


def test_what_is_no_picture_is_left_alone_and_counted(tmp_path, caplog):
    root = put(tmp_path, "s/1.png", "s/.hidden.png", "s/._1.png")
    (tmp_path / "s" / "labels.csv").write_text("x")
    (request,) = find_pictures([root]).values()
    assert list_pictures(request).names == ["1.png"]
    assert "3 files below" in caplog.text


def test_links_are_not_followed_out_of_the_folder(tmp_path):
    outside = put(tmp_path / "outside", "secret.png")
    root = put(tmp_path / "root", "s/1.png")
    Path(f"{root}/s/0.png").symlink_to(f"{outside}/secret.png")
    Path(f"{root}/s/folder").symlink_to(outside)
    Path(f"{root}/s/2.png").symlink_to(f"{root}/s/1.png")  # inside
    Path(f"{root}/s/3.png").symlink_to(f"{root}/nothing.png")
    (request,) = find_pictures([root]).values()
    assert list_pictures(request).names == ["1.png", "2.png"]


def test_case_and_form_of_names_are_kept(tmp_path):
    names = ["s/É.PNG", "s/É.png", "s/a.png", "s/A.png"]
    (request,) = find_pictures([put(tmp_path, *names)]).values()
    assert list_pictures(request).names == sorted(n.removeprefix("s/") for n in names)


def changed_by(path, change):
    before = list_pictures(path).stat
    change()
    return list_pictures(path).stat != before


def test_any_change_is_seen(tmp_path):
    root = put(tmp_path, "s/1.png", "s/2.png")
    (request,) = find_pictures([root]).values()
    first = tmp_path / "s" / "1.png"
    assert not changed_by(request, lambda: None)
    assert changed_by(request, lambda: os.utime(first, ns=(1, 1)))
    assert changed_by(request, lambda: first.write_bytes(first.read_bytes() + b"x"))
    assert changed_by(request, lambda: put(tmp_path, "s/3.png"))
    assert changed_by(request, lambda: first.rename(tmp_path / "s" / "0.png"))
    assert changed_by(request, (tmp_path / "s" / "2.png").unlink)
    assert not changed_by(request, lambda: (tmp_path / "s" / "a.txt").write_text("x"))


def test_a_picture_that_changes_while_it_is_worked_on_is_refused(tmp_path):
    root = put(tmp_path, "s/1.png", "s/2.png")
    (request,) = find_pictures([root]).values()
    source, plans = KIND.index(None, "s", request, 1)
    unit = KIND.load(None, plans[0])
    KIND.refuse_changed(unit)
    os.utime(tmp_path / "s" / "2.png", ns=(5, 5))
    KIND.refuse_changed(unit)  # of another unit
    os.utime(tmp_path / "s" / "1.png", ns=(5, 5))
    with pytest.raises(StorageError, match=r"1\.png has changed since it was listed"):
        KIND.refuse_changed(unit)
    (tmp_path / "s" / "1.png").write_bytes(b"shorter")
    with pytest.raises(StorageError, match="has changed"):
        tiles_of(unit)
    (tmp_path / "s" / "1.png").unlink()
    with pytest.raises(StorageError, match="no such file"):
        tiles_of(unit)
    assert not KIND.is_unchanged(None, source, request)


def test_a_plan_whose_pictures_have_changed_is_not_loaded(tmp_path):
    (request,) = find_pictures([put(tmp_path, "s/1.png")]).values()
    _, plans = KIND.index(None, "s", request, 1)
    put(tmp_path, "s/0.png")
    with pytest.raises(StorageError, match="have changed since they were listed"):
        KIND.load(None, plans[0])


@given(n=st.integers(1, 50), unit_tiles=st.integers(1, 60))
def test_units_tile_the_listing(n, unit_tiles):
    listing = Listing(
        [f"{i:03d}.png" for i in range(n)], np.ones(n, int), np.ones(n, int)
    )
    parts = [
        listing.part(start, start + unit_tiles) for start in range(0, n, unit_tiles)
    ]
    assert [name for part in parts for name in part.names] == listing.names
    assert sum(part.stat.size for part in parts) == listing.stat.size == n


def test_parts_of_a_unit_are_its_tiles(tmp_path):
    root = put(tmp_path, *(f"s/{i:02d}.png" for i in range(20)))
    _, (unit,) = units_of(find_pictures([root])["s"])
    every = tiles_of(unit)
    some = tiles_of(unit.part(5, 17))
    assert [t.content for t in some] == [t.content for t in every[5:17]]
    assert [t.position for t in some] == list(range(12))
    assert unit.part(5, 17).first == 5


def test_files_that_are_too_large_for_a_tile_are_bad_tiles(tmp_path, monkeypatch):
    root = put(tmp_path, "s/1.png")
    monkeypatch.setattr("raylatent.source.pictures.MAX_BYTES", 10)
    _, (unit,) = units_of(find_pictures([root])["s"])
    (tile,) = tiles_of(unit)
    assert isinstance(tile.content, ContentError)
    assert "too large" in str(tile.content)


def test_the_first_that_opens_tells_the_side(tmp_path):
    root = put(tmp_path, "s/2.png", side=9)
    (tmp_path / "s" / "1.png").write_bytes(b"no picture")
    assert first_tile_px(find_pictures([root])) == 9
    (tmp_path / "s" / "2.png").write_bytes(b"no picture")
    source, units = units_of(find_pictures([root])["s"])
    assert (source.n_indexed, source.tile_px, len(units)) == (2, None, 1)


def test_moved_folders_are_found_by_name(tmp_path):
    new = put(tmp_path / "new", "s/1.png")
    old = SimpleNamespace(uri="/old/s", pattern=None)
    assert KIND.moved([new], {"s": old}) == {"s": f"{new}/s"}
    assert KIND.moved([f"{new}/s"], {"s": old}) == {"s": f"{new}/s"}
    assert KIND.moved([new], {"t": SimpleNamespace(uri="/old/t", pattern=None)}) == {}
    renamed = SimpleNamespace(uri="/old/tiles", pattern="(?P<slide>.)")
    assert KIND.moved([new], {"s": renamed}) == {"s": new}
    with pytest.raises(SourceError, match="no such file or folder"):
        KIND.moved([f"{new}/gone"], {"s": old})


@pytest.mark.parametrize("name", [None, "../x.png", "/etc/x.png", "a/../../x.png"])
def test_a_path_in_a_row_never_leads_out_of_the_folder(name):
    from raylatent.errors import MapError

    row = dict.fromkeys(schema.REFERENCE.names) | {schema.NAME: name}
    with pytest.raises(MapError, match="no path of a picture"):
        KIND.place(SimpleNamespace(slide="s"), "/tiles/s", row, icc=False)


def test_paths_of_any_kind_are_sorted_by_what_they_hold(tmp_path):
    tiles = put(tmp_path / "tiles", "s/1.tif", "s/2.png")
    records = tmp_path / "records"
    records.mkdir()
    (records / "a.tfrecords").write_bytes(b"")
    slides = tmp_path / "slides"
    slides.mkdir()
    (slides / "a.svs").write_bytes(b"")
    paths = [tiles, str(records), str(slides)]
    assert sorted_paths(paths) == {
        "tiles": (tiles,),
        "tfrecords": (str(records),),
        "slides": (str(slides),),
    }
    assert sorted_paths([str(tmp_path / "gone")]) == {
        "tfrecords": (str(tmp_path / "gone"),)
    }


def test_pictures_given_as_tfrecords_or_slides_are_told_where_they_belong(tmp_path):
    root = put(tmp_path, "s/1.png")
    for name in ("tfrecords", "slides"):
        config = SimpleNamespace(**{name: (root,)}, annotations="")
        with pytest.raises(SourceError, match="--tiles for folders of pictures"):
            find_sources(config)


def test_a_slide_is_given_once(tmp_path):
    root = put(tmp_path, "a/1.png", "b/1.png")
    records = tmp_path / "a.tfrecords"
    records.write_bytes(b"")
    config = SimpleNamespace(
        tfrecords=(str(records),), tiles=(f"{root}/a",), tiles_pattern=""
    )
    with pytest.raises(SourceError, match="'a' is among --tfrecords and among --tiles"):
        find_sources(config)
    with pytest.raises(SourceError, match="no tiles were given: --tfrecords PATH"):
        find_sources(SimpleNamespace())


def test_kinds_are_named_as_their_options():
    assert list(KINDS) == ["tfrecords", "slides", "tiles"]
    assert Pattern.of(None).group("a/b.png", "label") is None
