"""Whole slides to TFRecords: Slideflow's layout, the plain twin's bytes, the same rows."""

import json

import numpy as np
import pytest

from raylatent.run import RunDirectory
from raylatent.source.filebytes import iter_records
from raylatent.source.index import frames_from, index_tfrecord
from raylatent.source.record import parse_example
from raylatent.source.wsi import WSI
from raylatent.tiles.tile import decode_image
from tests.engine import slide_files

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("in_process")]

N = {"a": 33, "h": 24}
FOLDER = "96px_48um"


@pytest.fixture(scope="module")
def slides(tmp_path_factory):
    """Slides of 33 and 24 tiles, with other sizes of a pixel."""
    folder = tmp_path_factory.mktemp("slides")
    slide_files.write_slide(folder / "a.tif", 1, width=1000, height=900)
    slide_files.write_slide(folder / "h.tif", 2, mpp=0.3, jpeg=True)
    return folder


def records_of(path):
    index = index_tfrecord(str(path))
    assert index.error is None
    payloads = iter_records(str(path), index.offsets, index.lengths)
    return [parse_example(payload) for payload in payloads]


def times_of(out):
    return {
        file.relative_to(out).as_posix(): (file.stat().st_ino, file.stat().st_mtime_ns)
        for folder in (FOLDER, "finished", "grids", "thumbnails")
        for file in sorted((out / folder).rglob("*.*"))
        if file.name != "manifest.json"
    }


@pytest.mark.parametrize("given", [{}, {"img_format": "png", "unit_tiles": 7}])
def test_files_are_byte_for_byte_those_of_the_plain_twin(
    tmp_path, slides, extract, given
):
    out = tmp_path / "run"
    report = extract(out, [slides], **given)
    assert not report.failed
    assert {slide.slide: slide.rows for slide in report.slides} == N
    found = sorted(file.name for file in (out / FOLDER).iterdir())
    files = [f"{name}{suffix}" for name in N for suffix in (".index.npz", ".tfrecords")]
    assert found == [*files, "manifest.json"]
    manifest = json.loads((out / FOLDER / "manifest.json").read_text())
    assert manifest == {f"{name}.tfrecords": {"total": n} for name, n in N.items()}
    for name, n in N.items():
        wsi = slide_files.plain_slide(slides / f"{name}.tif")
        form = given.get("img_format", "jpg")
        plain = slide_files.plain_tfrecord(
            tmp_path / "plain" / f"{name}.tfrecords", wsi, img_format=form
        )
        made = out / FOLDER / f"{name}.tfrecords"
        assert made.read_bytes() == plain.read_bytes()
        records = records_of(made)
        assert {record.slide for record in records} == {name}
        found = [(record.loc_x, record.loc_y) for record in records]
        assert found == [tuple(place) for place in wsi.locations.tolist()]
        # The index beside it is Slideflow's, and fits.
        with np.load(made.with_name(f"{name}.index.npz")) as index:
            assert index["locations"].tolist() == wsi.locations.tolist()
            frames = index["arr_0"]
        whole = frames_from(str(made), 0, n)
        assert frames.tolist() == np.stack([whole.offsets, whole.lengths], 1).tolist()
        assert index_tfrecord(str(made)).sidecar
    assert not (out / "tiles").exists() or not list((out / "tiles").rglob("*.*"))
    assert not list(out.rglob("*.aside"))


def test_png_tfrecords_give_the_rows_that_the_slides_give(
    tmp_path, slides, extract, compute, compute_slides
):
    """No tolerance is needed: PNG keeps every pixel, and rows their bits."""
    extract(tmp_path / "tiles", [slides], img_format="png")
    compute(tmp_path / "of tiles", [tmp_path / "tiles" / FOLDER], unit_tiles=13)
    compute_slides(tmp_path / "of slides", [slides])
    both = [RunDirectory.open(str(tmp_path / f"of {x}")) for x in ("tiles", "slides")]
    for name in N:
        of_tiles, of_slides = (run.read_rows(name) for run in both)
        assert of_tiles.schema.equals(of_slides.schema)
        for column in of_slides.column_names:
            if column not in {"offset", "length"}:
                assert of_tiles[column].equals(of_slides[column]), column
    sources = both[0].sources()
    assert sources["tile_um"].to_pylist() == [48.0] * 2


def test_jpeg_is_near_the_slide_and_the_nearer_the_higher_its_quality(
    tmp_path, slides, extract
):
    """Quality 95 with halved chroma: on average 4 of 255 off on this texture, 60: 8."""
    off = {}
    wsi = slide_files.plain_slide(slides / "h.tif")
    tiles = [pixels for _, pixels in slide_files.plain_tiles(wsi)]
    for quality in (60, 95):
        out = tmp_path / f"{quality}"
        extract(out, [slides / "h.tif"], jpeg_quality=quality)
        found = [
            decode_image(r.image_raw) for r in records_of(out / FOLDER / "h.tfrecords")
        ]
        assert {tile.shape for tile in found} == {(96, 96, 3)}
        off[quality] = np.abs(np.stack(found).astype(int) - np.stack(tiles)).mean()
    assert off[95] < 5
    assert off[95] < 0.7 * off[60]


def test_slideflows_own_tfrecord_has_the_same_tiles(tmp_path, goldens, extract):
    """It read level 0 and halved it, then stored a JPEG; here level 1 is taken as it is.

    On this synthetic noise that makes 2.8 of 255 a pixel on average; other tiles of the
    slide are more than 10 away.
    """
    golden = {
        (record.loc_x, record.loc_y): decode_image(record.image_raw).astype(int)
        for record in records_of(goldens / "tfrecords_wsi/96px_96um/wsi_a.tfrecords")
    }
    options = {"tile_um": "96", "mpp": 0.5, "qc": "none", "img_format": "png"}
    extract(tmp_path / "run", [goldens / "wsi_a.tif"], **options)
    made = {
        (record.loc_x, record.loc_y): decode_image(record.image_raw).astype(int)
        for record in records_of(tmp_path / "run/96px_96um/wsi_a.tfrecords")
    }
    wsi = WSI(goldens / "wsi_a.tif", 96, 96, mpp=0.5)
    wsi.filter()  # the golden was made with the filter of gray tiles alone
    assert {tuple(place) for place in wsi.locations.tolist()} == set(golden)
    assert set(made) > set(golden)
    off = [np.abs(made[place] - tile).mean() for place, tile in golden.items()]
    assert max(off) < 4
    others = zip(list(golden)[1:], golden.values(), strict=False)
    assert np.mean([np.abs(made[p] - tile).mean() for p, tile in others]) > 10


def test_slides_that_fail_are_named_and_the_others_are_there(tmp_path, slides, extract):
    bad = tmp_path / "bad"
    bad.mkdir()
    small = {"width": 700, "height": 600}
    slide_files.write_slide(bad / "nobody.tif", 3, mpp=None, **small)
    slide_files.write_slide(bad / "pale.tif", color=slide_files.PALE, grain=0)
    slide_files.write_slide(bad / "torn.tif", 1, jpeg=True, **small)
    slide_files.harm(bad / "torn.tif", row=3, col=2)
    (bad / "no slide.svs").write_bytes(b"no slide")
    out = tmp_path / "run"
    report = extract(out, [slides / "a.tif", bad], max_bad_fraction=0.5)
    found = {slide.slide: slide for slide in report.slides}
    assert {slide.slide for slide in report.failed} == {"nobody", "no slide"}
    assert "give --mpp" in found["nobody"].error
    told = json.loads((out / "report.json").read_text())
    assert set(told["without_tiles"]) == {"no slide", "nobody", "pale"}
    assert found["a"].rows == N["a"]

    torn = found["torn"]
    assert 0 < torn.quarantined < torn.rows
    assert torn.rows + torn.quarantined == torn.n_indexed
    wsi = slide_files.plain_slide(bad / "torn.tif")
    plain = slide_files.plain_tfrecord(tmp_path / "plain/torn.tfrecords", wsi)
    assert (out / FOLDER / "torn.tfrecords").read_bytes() == plain.read_bytes()
    assert sorted(file.name for file in (out / FOLDER).glob("*.tfrecords")) == [
        "a.tfrecords",
        "torn.tfrecords",
    ]
    before = times_of(out)
    again = extract(out, [slides / "a.tif", bad], max_bad_fraction=0.5)
    assert again.counts["tiles"] == 0
    assert again.slides == report.slides
    assert times_of(out) == before
    # What others say of its pixels mends it.
    mended = extract(out, [slides / "a.tif", bad], max_bad_fraction=0.5, mpp=0.5)
    assert {slide.slide for slide in mended.failed} == {"no slide"}
    assert (out / FOLDER / "nobody.tfrecords").exists()
    assert {name: times_of(out)[name] for name in before} == before
