"""Mosaics whose tiles are read again from whole slides."""

import io

import numpy as np
import pyarrow as pa
import pytest
import tifffile
from PIL import Image, ImageCms

from raylatent import schema
from raylatent.errors import MapError, SourceError
from raylatent.mosaic import Mosaic
from raylatent.source.protocol import Source, sources_table
from raylatent.source.record import TileRecord
from raylatent.source.tfrecords import Frame
from raylatent.source.write import write_tfrecord
from raylatent.source.wsi.regions import SlideTile, tile_at
from raylatent.storage import FileStat
from raylatent.stored.mosaic_inputs import Located, from_table, source_places, where
from raylatent.tiles.fetch import stored_tiles

SIDE = 512
WINDOW = 64
COLORS = {"red": (200, 0, 0), "green": (0, 200, 0), "blue": (0, 0, 200)}


def quadrants():
    """Red above left, green above right, blue below left, white below right."""
    pixels = np.full((SIDE, SIDE, 3), 255, np.uint8)
    half = SIDE // 2
    pixels[:half, :half] = COLORS["red"]
    pixels[:half, half:] = COLORS["green"]
    pixels[half:, :half] = COLORS["blue"]
    return pixels


def write_slide(path, pixels, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(
            pixels,
            tile=(128, 128),
            photometric="rgb",
            resolution=(20_000, 20_000),
            resolutionunit="CENTIMETER",
            **options,
        )
    return str(path)


@pytest.fixture
def slide(tmp_path):
    return write_slide(tmp_path / "slides" / "s.tif", quadrants())


def tile(uri, x, y, **options):
    return SlideTile(uri=uri, x=x, y=y, window_px=WINDOW, **options)


def colors(tiles):
    return {i: Image.Image.getpixel(t, (t.width // 2, 2)) for i, t in tiles.items()}


def source_of(uri, **known):
    """A source as planned: a slide, or a TFRecord."""
    kind = "tfrecords" if uri.endswith(".tfrecords") else "slides"
    window_px = WINDOW if kind == "slides" else None
    values = {"source": 0, "slide": "s", "window_px": window_px, **known}
    stat = FileStat(size=1, mtime_ns=1)
    return Source(kind=kind, uri=uri, stat=stat, n_indexed=4, **values)


def test_a_location_is_the_center_of_its_window():
    source = source_of("s.svs", window_px=65)
    found = tile_at(source, "s.svs", 132, 33)
    assert (found.x, found.y) == (100, 1)
    with pytest.raises(MapError, match="no location"):
        tile_at(source, "s.svs", None, 33)


def test_tiles_come_back_from_where_they_were(slide):
    places = [tile(slide, 32, 32), tile(slide, 320, 32), tile(slide, 32, 320)]
    found = dict(stored_tiles(places, 16))
    assert colors(found) == dict(enumerate(COLORS.values()))
    assert {t.size for t in found.values()} == {(16, 16)}


def test_tiles_are_upright(slide):
    edge = SIDE // 2 - WINDOW // 2
    ((_, upright),) = stored_tiles([tile(slide, edge, edge)], WINDOW)
    np.testing.assert_array_equal(
        np.asarray(upright),
        quadrants()[edge : edge + WINDOW, edge : edge + WINDOW],
    )


def test_what_lies_beyond_the_slide_is_white(slide):
    ((_, beyond),) = stored_tiles([tile(slide, SIDE - 8, 0)], WINDOW)
    assert np.asarray(beyond)[:, 8:].min() == 255
    np.testing.assert_array_equal(np.asarray(beyond)[0, 0], COLORS["green"])


def test_a_slide_that_is_gone_or_broken_is_a_reason(slide, tmp_path):
    broken = tmp_path / "broken.tif"
    broken.write_bytes(b"no slide")
    places = [
        tile(slide, 32, 32),
        tile(str(tmp_path / "gone.tif"), 0, 0),
        tile(str(broken), 0, 0),
    ]
    found = dict(stored_tiles(places, 16))
    assert isinstance(found[0], Image.Image)
    assert "gone" in found[1]
    assert "broken" in found[2]


def swapped_profile():
    """sRGB with red and green changed for each other."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    marked = profile.replace(b"rXYZ", b"????", 1).replace(b"gXYZ", b"rXYZ", 1)
    return marked.replace(b"????", b"gXYZ", 1)


def test_colors_are_converted_where_the_run_did(tmp_path):
    path = write_slide(tmp_path / "icc.tif", quadrants(), iccprofile=swapped_profile())
    places = [tile(path, 32, 32), tile(path, 32, 32, icc=True)]
    plain, converted = (
        np.asarray(next(iter(stored_tiles([place], WINDOW)))[1])[0, 0]
        for place in places
    )
    assert tuple(plain) == COLORS["red"]
    assert converted[1] > 150 > converted[0]


def png(color):
    buffer = io.BytesIO()
    Image.new("RGB", (WINDOW, WINDOW), color).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def points():
    """Two tiles of slide `s` (source 0) and one of TFRecord `t` (source 1)."""
    return pa.table(
        {
            schema.SLIDE: ["s", "s", "t"],
            schema.TILE_INDEX: [0, 1, 0],
            schema.SOURCE: pa.array([0, 0, 1], pa.int32()),
            schema.LOC_X: pa.array([64, 352, 5], pa.int32()),
            schema.LOC_Y: pa.array([64, 64, 5], pa.int32()),
            schema.X: [0.0, 1.0, 2.0],
            schema.Y: [0.0, 0.0, 0.0],
        }
    )


@pytest.fixture
def record(tmp_path):
    path = tmp_path / "tfrecords" / "t.tfrecords"
    write_tfrecord(path, [TileRecord(png(COLORS["blue"]), "t", 5, 5)])
    return str(path)


def test_one_mosaic_of_slides_and_tfrecords(slide, record, points, tmp_path):
    sources = {0: Located(source_of(slide), slide), 1: record}
    mosaic = Mosaic(points, tfrecords=sources, num_tiles_x=3)
    mosaic.save(str(tmp_path / "mosaic.png"), cell_px=20)
    picture = np.asarray(Image.open(tmp_path / "mosaic.png").convert("RGB"))
    seen = {tuple(pixel) for pixel in picture.reshape(-1, 3).tolist()}
    assert set(COLORS.values()) <= seen


def test_places_of_a_table(slide, record, points):
    sources = {0: Located(source_of(slide), slide), 1: record}
    given = from_table(points, sources)
    cells = given.reference
    first, _, last = given.frames(cells)
    assert first == tile(slide, 64 - WINDOW // 2, 64 - WINDOW // 2)
    assert isinstance(last, Frame)


class Run:
    """What `source_places` asks of a run."""

    def __init__(self, uris, slides):
        self._uris, self._slides = uris, slides

    def sources(self):
        sources = [
            source_of(uri, source=i, slide=slide, tile_px=WINDOW // 2)
            for i, (slide, uri) in enumerate(zip("st", self._uris, strict=True))
        ]
        return sources_table(sources)

    def settings(self):
        return {"fields": {"slides": self._slides}}


def test_places_of_a_run(slide, record):
    places = source_places(Run([slide, record], {"icc": True}))
    row = dict.fromkeys(schema.REFERENCE.names, 100)
    whole = places[0].place(row)
    corner = 100 - WINDOW // 2
    assert whole == tile(slide, corner, corner, icc=True, tile_px=WINDOW // 2)
    frame = Frame(uri=record, tile_index=100, offset=100, length=100)
    assert places[1].place(row) == frame


def test_moved_sources_are_found_by_name(slide, record, tmp_path):
    run = Run(["/gone/s.tif", "/gone/t.tfrecords"], {"icc": False})
    found = where(run, str(tmp_path))
    assert {i: one.uri for i, one in found.items()} == {0: slide, 1: record}
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match="empty"):
        where(run, str(tmp_path / "empty"))
    assert where(run, {1: record}) == {1: record}
    only_files = Run([record, record], None)
    assert where(only_files, "anywhere") == "anywhere"
