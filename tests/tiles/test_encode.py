"""A unit's tiles as encoded pictures: the plain twin of the actors that extract."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pytest

from raylatent import schema
from raylatent.errors import ContentError
from raylatent.source.tissue import TissueOptions
from raylatent.source.whole_slides import (
    SlideRequest,
    SlideUnit,
    detect_tiles,
    open_slide,
    source_of_slide,
)
from raylatent.source.write import encode_tile
from raylatent.source.wsi import TileOptions
from raylatent.source.wsi.regions import SlideCache
from raylatent.source.wsi.selection import kept_tiles
from raylatent.tiles.decode import decode_image
from raylatent.tiles.encode import Picture, encoded_unit
from raylatent.tiles.stream import Threads
from tests.engine import slide_files

PNG = Picture(img_format="png", jpeg_quality=95)


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    """A slide with a torn tile."""
    path = tmp_path_factory.mktemp("slide") / "s.tif"
    slide_files.write_slide(path, 1, jpeg=True, width=1000, height=900)
    slide_files.harm(path, row=3, col=5)
    return path


@pytest.fixture(scope="module")
def unit_of(slide):
    """Tiles [first, last) of the slide."""
    request = SlideRequest(
        uri=str(slide),
        tiles=TileOptions(tile_px=96, tile_um="48"),
        tissue=TissueOptions(),
    )
    opened = open_slide("s", request)
    rows, cols = kept_tiles(detect_tiles(opened, request))
    source = source_of_slide("s", request, opened, len(rows))

    def make(first=0, last=None):
        return SlideUnit(
            source=source,
            unit=1,
            first=first,
            geometry=opened.geometry,
            rows=rows[first:last],
            cols=cols[first:last],
        )

    return make


@pytest.fixture(scope="module")
def plain(slide):
    return slide_files.plain_tiles(slide_files.plain_slide(slide))


def run(unit, picture=PNG, n_threads=2):
    with ThreadPoolExecutor(n_threads) as pool:
        return encoded_unit(unit, picture, Threads(pool, n_threads), SlideCache())


def test_good_tiles_are_rows_in_tile_order_and_the_others_in_quarantine(unit_of, plain):
    first, last = 4, 30
    rows, quarantine = run(unit_of(first, last))
    assert rows.schema == schema.TILES
    assert quarantine.schema == schema.QUARANTINE
    broken = [i for i in range(first, last) if isinstance(plain[i][1], ContentError)]
    good = [i for i in range(first, last) if i not in broken]
    assert 0 < len(broken) < len(good)
    assert rows[schema.TILE_INDEX].to_pylist() == good
    assert quarantine[schema.TILE_INDEX].to_pylist() == broken
    for table, indices in ((rows, good), (quarantine, broken)):
        x, y = (table[name].to_pylist() for name in (schema.LOC_X, schema.LOC_Y))
        assert list(zip(x, y, strict=True)) == [plain[i][0] for i in indices]
        assert table[schema.OFFSET].null_count == len(table)
    assert quarantine[schema.ERROR].to_pylist() == [str(plain[i][1]) for i in broken]
    for image, i in zip(rows[schema.IMAGE_RAW].to_pylist(), good, strict=True):
        assert np.array_equal(decode_image(image), plain[i][1])


@pytest.mark.parametrize(("form", "quality"), [("png", 95), ("jpg", 95), ("jpg", 40)])
def test_bytes_are_those_of_encode_tile(unit_of, plain, form, quality):
    rows, _ = run(unit_of(0, 12), Picture(img_format=form, jpeg_quality=quality))
    indices = rows[schema.TILE_INDEX].to_pylist()
    assert rows[schema.IMAGE_RAW].to_pylist() == [
        encode_tile(plain[i][1], form, quality) for i in indices
    ]


@pytest.mark.parametrize("n_threads", [1, 4])
def test_threads_and_units_change_nothing(unit_of, n_threads):
    whole = run(unit_of(), n_threads=n_threads)
    n = len(unit_of())
    parts = [run(unit_of(i, min(i + 10, n))) for i in range(0, n, 10)]
    for table, pieces in zip(whole, zip(*parts, strict=True), strict=True):
        assert pa.concat_tables(pieces).combine_chunks().equals(table.combine_chunks())


def test_a_unit_without_one_good_tile_has_no_row(unit_of, plain):
    bad = [i for i, (_, tile) in enumerate(plain) if isinstance(tile, ContentError)]
    rows, quarantine = run(unit_of(bad[0], bad[0] + 1))
    assert (len(rows), len(quarantine)) == (0, 1)
    assert rows.schema == schema.TILES
