"""Folders of pictures: which slides they are of, their order, and what changes them."""

import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import fsspec
import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from raylatent import schema
from raylatent.errors import ConfigError, ContentError, SourceError, StorageError
from raylatent.source import pictures
from raylatent.source.kinds import (
    KINDS,
    find_sources,
    first_tile_px,
    look_again,
    sorted_paths,
)
from raylatent.source.names import Pattern
from raylatent.source.pictures import (
    FLAT,
    Listing,
    PictureFolders,
    find_pictures,
    read_again,
)
from raylatent.source.protocol import number_sources, sources_table
from raylatent.source.wsi import detect_format
from raylatent.storage import FileStat, list_stats
from raylatent.stored.mosaic_inputs import source_places

KIND = PictureFolders()
CLASS_FOLDERS = r"(?P<label>[^/]+)/(?P<slide>[^/_]+)_x(?P<x>-?\d+)_y(?P<y>-?\d+)\.png$"


def put(folder, *names, side=8):
    """Small pictures of one color each."""
    for i, name in enumerate(names):
        path = Path(folder, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (side, side), (i, 2 * i, 255 - i)).save(path)
    return str(folder)


def list_pictures(source):
    """A slide's pictures as they are now."""
    pictures.forget_listings()
    return pictures.list_pictures(source)


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
        (r"(?P<y>)(?P<x>\w+)\.png", SourceError, "finds x='99999999999_' in 's/99"),
        (r"(?P<x>)(?P<y>\d+)_", SourceError, "y='99999999999'"),
        (r"(?P<x>\d+)", ConfigError, "has one of the groups x and y: a place needs"),
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
        (["a/notes.txt", "b.csv"], "", r"\); its files by ending: 1 .txt, 1 .csv$"),
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
    assert f"below {root} are left alone: 3 are no pictures, as 's/." in caplog.text


def test_a_line_names_a_picture_that_the_pattern_does_not_fit(tmp_path, caplog):
    root = put(tmp_path, "a_1.png", "b.png", "c.png")
    (request,) = find_pictures([root], r"(?P<slide>\w)_\d").values()
    assert request.listing.names == ["a_1.png"]
    assert "are left alone: 2 do not fit the pattern, as 'b.png'" in caplog.text
    caplog.clear()
    find_pictures([root], r"(?P<slide>[ab])")
    assert "are left alone: 1 does not fit the pattern, 'c.png'" in caplog.text


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
    with pytest.raises(StorageError, match=r"1\.png' has changed since it was listed"):
        KIND.refuse_changed(unit)
    (tmp_path / "s" / "1.png").write_bytes(b"shorter")
    with pytest.raises(StorageError, match="has changed"):
        tiles_of(unit)
    (tmp_path / "s" / "1.png").unlink()
    with pytest.raises(StorageError, match="no such file"):
        tiles_of(unit)
    (now,) = find_pictures([root]).values()
    assert not KIND.is_unchanged(None, source, now)


def test_a_plan_whose_pictures_have_changed_is_not_loaded(tmp_path):
    (request,) = find_pictures([put(tmp_path, "s/1.png")]).values()
    _, plans = KIND.index(None, "s", request, 1)
    put(tmp_path, "s/0.png")
    with pytest.raises(StorageError, match="have changed since they were listed"):
        KIND.load(None, plans[0])


@given(n=st.integers(1, 50), unit_tiles=st.integers(1, 60))
def test_units_tile_the_listing(n, unit_tiles):
    names = [f"{i:03d}.png" for i in range(n)]
    listing = Listing(names, [FileStat(size=1, mtime_ns=1)] * n)
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


def planned(uri, slide, pattern=None, n_indexed=1):
    return SimpleNamespace(uri=uri, slide=slide, pattern=pattern, n_indexed=n_indexed)


def test_moved_folders_are_found_by_name(tmp_path):
    new = put(tmp_path / "new", "s/1.png")
    old = planned("/old/s", "s")
    assert KIND.moved([new], {"s": old}) == {"s": f"{new}/s"}
    assert KIND.moved([f"{new}/s"], {"s": old}) == {"s": f"{new}/s"}
    assert KIND.moved([new], {"t": planned("/old/t", "t")}) == {}
    renamed = planned("/old/tiles", "s", "(?P<slide>.)/")
    assert KIND.moved([new], {"s": renamed}) == {"s": new}
    with pytest.raises(SourceError, match="no such file or folder"):
        KIND.moved([f"{new}/gone"], {"s": old})


def test_of_two_moved_folders_that_is_taken_which_has_the_slide(tmp_path):
    """By name first, over all roots; under a new name only if its pictures are there."""
    one = put(tmp_path / "one", "tiles/a_1.png", "s/1.png", "flat/1.png", "flat/2.png")
    two = put(tmp_path / "two", "tiles/b_1.png", "new/b_1.png", "t/1.png")
    pattern = r"(?P<slide>.)_\d"
    sources = {
        "a": planned("/old/tiles", "a", pattern),
        "b": planned("/old/tiles", "b", pattern),
        "c": planned("/old/tiles", "c", pattern),
        "flat": planned("/old/flat", "flat", FLAT, 2),
        "t": planned("/old/t", "t"),
    }
    wanted = {
        "a": f"{one}/tiles",
        "b": f"{two}/tiles",
        "flat": f"{one}/flat",
        "t": f"{two}/t",
    }
    assert KIND.moved([one, two], sources) == wanted
    assert KIND.moved([two, one], sources) == wanted
    renamed = [f"{two}/t", f"{one}/s", f"{two}/new"]
    assert KIND.moved(renamed, {"b": sources["b"]}) == {"b": f"{two}/new"}


@pytest.mark.parametrize("name", [None, "../x.png", "/etc/x.png", "a/../../x.png"])
def test_a_path_in_a_row_never_leads_out_of_the_folder(name):
    from raylatent.errors import MapError

    row = dict.fromkeys(schema.REFERENCE.names) | {schema.NAME: name}
    with pytest.raises(MapError, match="no path of a picture"):
        KIND.place(planned("/tiles/s", "s"), "/tiles/s", row, icc=False)


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


def test_a_picture_given_as_a_tfrecord_is_told_where_it_belongs(tmp_path):
    root = put(tmp_path, "s/1.png", "s/2.tif")
    for name in ("1.png", "2.tif"):
        config = SimpleNamespace(tfrecords=(f"{root}/s/{name}",), annotations="")
        with pytest.raises(SourceError, match=f"is a picture, no .* --tiles {root}/s"):
            find_sources(config)


def test_tiles_that_are_stored_in_squares_are_no_slides(tmp_path, monkeypatch):
    """OpenSlide opens them; a folder of many is known by a few of them."""
    pixels = np.zeros((256, 256, 3), np.uint8)
    (tmp_path / "s").mkdir()
    for i in range(40):
        tifffile.imwrite(tmp_path / "s" / f"{i}.tif", pixels, tile=(64, 64))
    assert detect_format(str(tmp_path / "s" / "0.tif")) == "generic-tiff"
    looked = []
    monkeypatch.setattr(
        "raylatent.source.whole_slides.detect_format",
        lambda path: looked.append(path) or detect_format(path),
    )
    assert list(sorted_paths([str(tmp_path)])) == ["tiles"]
    assert len(looked) == 16
    assert list(sorted_paths([str(tmp_path / "s" / "0.tif")])) == ["slides"]
    large = np.zeros((16, 8200, 3), np.uint8)
    tifffile.imwrite(tmp_path / "s" / "0.tif", large, tile=(16, 64), compression="zlib")
    assert list(sorted_paths([str(tmp_path)])) == ["slides"]


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


@pytest.mark.parametrize("pattern", [None, r"(?P<slide>\w+)/[^/]+$"])
def test_runs_and_hidden_folders_below_are_left_alone(tmp_path, caplog, pattern):
    """A run's own pictures, and thumbnails that others make, are no tiles."""
    root = put(
        tmp_path / "data",
        *("s/1.png", "run/maps/default/umap.png", "s/later/mosaics/default/mosaic.png"),
        *(".ipynb_checkpoints/1.png", "s/@eaDir/1.png", "s/.trash/deep/1.png"),
    )
    for run in ("run", "s/later"):
        Path(root, run, "run.json").write_text("{}")
    found = find_pictures([root], pattern)
    assert {s: [*one.listing.names] for s, one in found.items()} == {
        "s": ["1.png" if pattern is None else "s/1.png"]
    }
    assert "4 lie in run directories" in caplog.text
    assert "3 lie in hidden folders" in caplog.text
    assert list_pictures(found["s"]) == found["s"].listing
    with pytest.raises(SourceError, match=r"holds no picture .* 2 lie in run direct"):
        find_pictures([f"{root}/run"])


def test_links_between_slides_are_tiles_of_both(tmp_path):
    root = put(tmp_path, "a/1.png")
    (tmp_path / "b").mkdir()
    Path(root, "b/2.png").symlink_to(f"{root}/a/1.png")
    found = find_pictures([root])
    assert {s: [*one.listing.names] for s, one in found.items()} == {
        "a": ["1.png"],
        "b": ["2.png"],
    }
    source, (unit,) = units_of(found["b"])
    assert (source.error, len(tiles_of(unit))) == (None, 1)
    KIND.refuse_changed(unit)


def test_linked_folders_are_the_same_from_wherever_they_are_listed(tmp_path):
    """Else a slide would seem changed to a worker, which lists its folder only."""
    root = put(tmp_path / "t", "a/1.png", "b/2.png", "c/deep/3.png")
    (tmp_path / "given").symlink_to(root)
    for link, target in (
        *(("a/to_b", "b"), ("c/to_a", "a"), ("b/up", "."), ("c/deep/up", "c")),
        *(("d", "b"), ("c/to_c", "c/deep")),
    ):
        Path(root, link).symlink_to(f"{root}/{target}")
    for folder in (root, str(tmp_path / "given")):
        found = find_pictures([folder])
        assert {s: [*one.listing.names] for s, one in found.items()} == {
            "a": ["1.png", "to_b/2.png"],
            "b": ["2.png"],
            "c": ["deep/3.png", "to_a/1.png", "to_c/3.png"],
            "d": ["2.png"],
        }
        for request in found.values():
            assert list_pictures(request) == request.listing


def test_links_that_are_not_followed_are_counted(tmp_path, caplog):
    outside = put(tmp_path / "outside", "1.png", "2.png", "deep/3.png")
    root = put(tmp_path / "root", "s/1.png")
    Path(root, "s/0.png").symlink_to(f"{outside}/1.png")
    Path(root, "folder").symlink_to(outside)
    (request,) = find_pictures([root]).values()
    assert list_pictures(request).names == ["1.png"]
    assert f"2 links lead out of {root} and are not followed, as 'folder" in caplog.text
    (tmp_path / "only").mkdir()
    (tmp_path / "only" / "folder").symlink_to(outside)
    with pytest.raises(
        SourceError, match=r"no file at all; 1 link .*only and is not followed, 'folder"
    ):
        find_pictures([str(tmp_path / "only")])


@pytest.mark.parametrize("n_slides", [1, 10, 100])
def test_a_folder_is_listed_once_however_many_slides(tmp_path, monkeypatch, n_slides):
    names = [f"{i % 3}/s{i}_{k}.png" for i in range(n_slides) for k in range(2)]
    root, pattern = put(tmp_path, *names), r"/(?P<slide>s\d+)_"
    listed = []

    def counted(uri, within=None):
        listed.append(uri)
        return list_stats(uri, within)

    monkeypatch.setattr("raylatent.source.find.list_stats", counted)
    monkeypatch.setattr("raylatent.source.pictures.list_stats", counted)
    found = find_pictures([root], pattern)
    plans = {}
    for slide, request in found.items():
        source, plans[slide] = KIND.index(None, slide, request, 1)
        assert KIND.is_unchanged(None, source, request)
        glimpse = KIND.glimpse(request)
        assert KIND.stat(glimpse) == glimpse.listing.stat
    assert listed == [root]
    for plan in (plan for several in plans.values() for plan in several):
        KIND.refuse_changed(KIND.load(None, plan))
    assert listed == [root, root]  # what a worker finds is its own
    sources = {slide: several[0].source for slide, several in plans.items()}
    assert KIND.moved([root], sources) == dict.fromkeys(sources, root)
    look_again(root)
    for source in sources.values():
        assert KIND.stat(source) == source.stat
        assert not KIND.differs(source, root)
    assert listed == [root] * 3


def test_files_that_are_no_pictures_may_have_any_name(tmp_path):
    root = put(tmp_path, "s/1.png", "s/2.png")
    Path(root, "s/2.png").rename(os.fsdecode(f"{root}/s/".encode() + b"\xff.txt"))
    (request,) = find_pictures([root]).values()
    _, plans = KIND.index(None, "s", request, 1)
    Path(root, "s/1.png").rename(os.fsdecode(f"{root}/s/".encode() + b"\xff.png"))
    with pytest.raises(StorageError, match="have changed since they were listed"):
        KIND.load(None, plans[0])
    with pytest.raises(SourceError, match=r"'s/\\udcff\.png' .* is not in UTF-8"):
        find_pictures([root])


def test_folders_in_one_another_are_refused(tmp_path):
    root = put(tmp_path / "t", "A/1.png")
    (tmp_path / "link").symlink_to(f"{root}/A")
    for paths in (
        [f"{root}/A", root],
        [root, f"{root}/A/"],
        [root, f"{tmp_path}/link"],
    ):
        with pytest.raises(SourceError, match=r"lies in .*t, all of whose pictures"):
            find_pictures(paths)
    assert list(find_pictures([root, root])) == ["A"]


def test_a_folder_has_a_name(tmp_path, monkeypatch):
    root = put(tmp_path / "t", "1.png")
    (tmp_path / "t" / "deep").mkdir()
    monkeypatch.chdir(tmp_path / "t" / "deep")
    ((slide, request),) = find_pictures([".."]).items()
    assert (slide, request.uri) == ("t", root)
    with pytest.raises(SourceError, match="/ is the whole file system"):
        find_pictures(["/"])


def test_labels_are_tidy_and_places_are_whole(tmp_path):
    root = put(tmp_path, "Mu\u0308ller\u00a0/s_1_2.png", "M\u00fcller/s_3.png")
    pattern = r"(?P<label>[^/]+)/(?P<slide>s)_(?P<x>\d+)(_(?P<y>\d+))?"
    _, (unit,) = units_of(find_pictures([root], pattern)["s"])
    assert set(unit.columns()[schema.LABEL].to_pylist()) == {"M\u00fcller"}
    places = [(tile.loc_x, tile.loc_y) for tile in tiles_of(unit)]
    assert sorted(places, key=str) == [(1, 2), (None, None)]


def test_the_pattern_of_the_plan_is_told_from_the_option():
    source = planned("/t", "s", "(?P<slide>")
    with pytest.raises(
        ConfigError, match=r"the pattern in sources.parquet .* is no reg"
    ):
        list_pictures(source)


def test_a_chosen_tile_is_no_link_out_of_the_folder(tmp_path):
    outside = put(tmp_path / "outside", "1.png")
    root = put(tmp_path / "root", "s/1.png", "t/1.png")
    Path(root, "s/2.png").symlink_to(f"{outside}/1.png")
    Path(root, "s/3.png").symlink_to(f"{root}/t/1.png")
    source = planned(f"{root}/s", "s")
    places = [
        KIND.place(source, source.uri, {schema.NAME: f"{i}.png"}, icc=False)
        for i in (1, 2, 3)
    ]
    found = dict(read_again(list(enumerate(places)), 8))
    assert [type(one) for one in found.values()] == [bytes, str, bytes]
    assert "is a link out of" in found[1]


def test_that_pictures_are_not_those_of_the_run_is_said_once(tmp_path, caplog):
    root = put(tmp_path / "t", *(f"s{i}/{k}.png" for i in range(7) for k in range(2)))
    found = find_pictures([root])
    planned = [KIND.index(None, slide, one, 1)[0] for slide, one in found.items()]
    table = sources_table(number_sources(planned, {}))
    run = SimpleNamespace(sources=lambda: table, settings=dict)
    assert len(source_places(run)) == 7
    copy = shutil.copytree(root, tmp_path / "copy", copy_function=shutil.copyfile)
    assert source_places(run, [str(copy)])[0].uri == f"{copy}/s0"
    assert caplog.text == ""  # only the times of a copy differ
    for i in range(6):
        os.utime(f"{root}/s{i}/1.png", ns=(1, 1))
    put(copy, "s6/3.png")
    source_places(run)
    source_places(run, [str(copy)])
    first, second = caplog.messages
    assert "the tiles of 6 slides have changed since the run" in first
    assert first.endswith("s0, s1, s2, s3, s4 and 1 more")
    assert second.endswith("those of its rows: s6")


def test_a_picture_of_the_same_size_in_a_store_is_another_one():
    memory = fsspec.filesystem("memory")
    memory.pipe("/same/s/1.png", b"one")
    memory.pipe("/same/s/2.png", b"two")
    (request,) = find_pictures(["memory://same"]).values()
    assert not changed_by(request, lambda: None)
    assert changed_by(request, lambda: memory.pipe("/same/s/1.png", b"new"))
