"""Slides of a run found again, and read without one bad slide ending the mosaic."""

import logging
import shutil
import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import tifffile
from PIL import Image

from raylatent import schema
from raylatent.errors import MapError, SourceError
from raylatent.montage.render import say_failed
from raylatent.source.protocol import Source
from raylatent.source.wsi import SlideHandle, regions
from raylatent.source.wsi.regions import SlideTile, tile_at
from raylatent.storage import FileStat
from raylatent.stored.mosaic_inputs import where
from raylatent.tiles.fetch import stored_tiles
from tests.source.scanner_slides import write_dicom, write_svs
from tests.source.synthetic_slides import blob
from tests.stored.test_slide_tiles import (
    SIDE,
    WINDOW,
    Run,
    quadrants,
    tile,
    write_slide,
)


@pytest.fixture
def moved(tmp_path):
    """A slide and a TFRecord of a run, in folders of their own below one root."""
    slide = write_slide(tmp_path / "root" / "slides" / "s.tif", quadrants())
    record = tmp_path / "root" / "tfrecords" / "t.tfrecords"
    record.parent.mkdir()
    record.write_bytes(b"")
    return tmp_path / "root", slide, str(record)


def run_of(slide="/gone/s.tif", record="/gone/t.tfrecords"):
    return Run([slide, record], {"icc": False})


def uris(places):
    return {i: getattr(place, "uri", place) for i, place in places.items()}


def test_a_root_may_hold_slides_or_tfrecords_or_both(moved, caplog):
    root, slide, record = moved
    assert uris(where(run_of(), root)) == {0: slide, 1: record}
    assert not caplog.records
    with caplog.at_level(logging.WARNING):
        only_slides = where(run_of(), [str(root / "slides")])
    assert uris(only_slides) == {0: slide, 1: "/gone/t.tfrecords"}
    assert "1 of 2 sources are not below" in caplog.text
    only_records = where(run_of(), [str(root / "tfrecords")])
    assert uris(only_records) == {0: "/gone/s.tif", 1: record}


def test_a_root_without_any_of_them_is_refused(moved, tmp_path):
    root, _, _ = moved
    write_slide(tmp_path / "other" / "u.tif", quadrants())
    with pytest.raises(SourceError, match=r"other holds none of the run's.*: s, t"):
        where(run_of(), [str(tmp_path / "other")])
    with pytest.raises(SourceError, match="no such file or folder"):
        where(run_of(), [str(root), str(tmp_path / "mistyped")])


def test_two_of_one_name_matter_only_where_they_are_needed(moved):
    root, slide, record = moved
    for copy in ("u.tif", "u.svs"):
        shutil.copy(slide, root / "slides" / copy)
    assert uris(where(run_of(), root)) == {0: slide, 1: record}
    (root / "slides" / "._s.svs").write_bytes(b"macOS")
    assert uris(where(run_of(), root)) == {0: slide, 1: record}
    write_slide(root / "again" / "s.tif", 255 - quadrants())
    with pytest.raises(SourceError, match="two slides are called 's'"):
        where(run_of(), root)
    with pytest.raises(SourceError, match="two slides are called 's'"):
        where(run_of(), [str(root / "slides"), str(root / "again")])
    assert uris(where(run_of(), root, {"t"})) == {1: record}


def test_a_dicom_slide_is_found_by_its_folder(tmp_path):
    folder, name = tmp_path / "slides", "of dicom"
    write_slide(folder / "another.tif", quadrants())
    write_dicom(folder / name, blob(900, 600), mpp=20)
    run = run_of(f"/gone/{name}")
    table = run.sources()
    named = table.set_column(1, schema.SLIDE, pa.array([name, "t"]))
    run.sources = lambda: named
    place = where(run, [str(folder)])[0]
    assert place.uri == str(folder / name)
    ((_, shown),) = stored_tiles([tile(place.uri, 500, 300)], 20)
    assert shown.size == (20, 20)


def test_a_slide_that_is_gone_says_what_to_do(tmp_path):
    gone = dict(stored_tiles([tile(str(tmp_path / "gone.tif"), 0, 0)], 16))
    assert gone[0].startswith("no such slide")
    with pytest.raises(
        MapError, match=r"gone\.tif; if .*pictures were moved, say where"
    ):
        say_failed(gone, 1)


def test_a_slide_that_the_system_refuses_is_a_reason(moved, monkeypatch):
    def refused(uri):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(regions, "local_slide", refused)
    found = dict(stored_tiles([tile(moved[1], 0, 0)], 16))
    assert found == {0: f"cannot open {moved[1]}: [Errno 13] Permission denied"}


@pytest.mark.parametrize("n_threads", [1, 8])
def test_each_slide_is_opened_once_and_few_are_open(tmp_path, monkeypatch, n_threads):
    n_open, most, opened = 0, 0, []
    lock = threading.Lock()

    class Counted(SlideHandle):
        def __init__(self, *given, **options):
            nonlocal n_open, most
            super().__init__(*given, **options)
            with lock:
                opened.append(self.slide)
                n_open += 1
                most = max(most, n_open)

        def __del__(self):
            nonlocal n_open
            with lock:
                n_open -= 1

    monkeypatch.setattr(regions, "SlideHandle", Counted)
    paths = [write_slide(tmp_path / f"{i}.tif", quadrants()) for i in range(12)]
    gone = str(tmp_path / "5.svs")
    places = [tile(p, 8 * i, 8 * i) for i in range(30) for p in [*paths, gone]]
    found = dict(stored_tiles(places, 16, n_threads=n_threads))
    assert sorted(found) == list(range(len(places)))
    assert sum(isinstance(one, Image.Image) for one in found.values()) == 30 * 12
    assert sorted(opened) == sorted(str(i) for i in range(12))
    assert most <= 4


def test_tiles_are_not_read_larger_than_the_model_got_them(moved, monkeypatch):
    asked = []
    real = regions.TileReader

    def reader(handle, geometry):
        asked.append(geometry.tile_px)
        return real(handle, geometry)

    monkeypatch.setattr(regions, "TileReader", reader)
    place = tile(moved[1], 32, 32, tile_px=32)
    for cell_px in (16, 32, 100):
        ((_, shown),) = stored_tiles([place], cell_px)
        assert shown.size == (cell_px, cell_px)
    assert asked == [16, 32, 32]


def test_a_broken_region_leaves_the_others(tmp_path):
    slide = write_slide(tmp_path / "s.tif", quadrants(), compression="zlib")
    with tifffile.TiffFile(slide) as tiff:
        offset = tiff.pages[0].dataoffsets[-1]
    with Path(slide).open("r+b") as file:
        file.seek(offset)
        file.write(bytes(64))
    corner = SIDE - WINDOW
    places = [tile(slide, 0, 0), tile(slide, corner, corner), tile(slide, 8, corner)]
    found = dict(stored_tiles(places, 16))
    assert found[1].startswith("read: broken region")
    assert isinstance(found[0], Image.Image)
    assert isinstance(found[2], Image.Image)


def test_tiles_of_a_scanners_slide(tmp_path):
    slide = write_svs(tmp_path / "s.svs", blob(1500, 1600), shrinks=())
    source = Source(
        source=0,
        slide="s",
        kind="slides",
        uri=str(slide),
        stat=FileStat(size=1, mtime_ns=1),
        n_indexed=1,
        window_px=224,
        tile_px=224,
    )
    found = tile_at(source, str(slide), 1000 + 112, 1200 + 112)
    assert found == SlideTile(
        uri=str(slide), x=1000, y=1200, window_px=224, tile_px=224
    )
    ((_, shown),) = stored_tiles([found], 224)
    import openslide

    expected = openslide.OpenSlide(slide).read_region((1000, 1200), 0, (224, 224))
    np.testing.assert_array_equal(np.asarray(shown), np.asarray(expected)[..., :3])
