"""Pictures to pixels, and every kind of bad picture."""

import io
import struct
import warnings
import zlib

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from raylatent.errors import ContentError, StorageError
from raylatent.source.picture import FILE_FORMATS, MAX_SIDE_PX
from raylatent.tiles.decode import decode_image

NOISE = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
SMOOTH = np.stack(
    np.broadcast_arrays(
        np.arange(30) * 8, np.arange(20)[:, None] * 12, np.full((20, 30), 99)
    ),
    axis=2,
).astype(np.uint8)


def encoded(image, kind="PNG", **options):
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def test_png_is_exact():
    pixels = decode_image(encoded(NOISE))
    assert (pixels.dtype, pixels.shape) == (np.uint8, (20, 30, 3))
    assert np.array_equal(pixels, NOISE)


def test_jpeg_is_near():
    pixels = decode_image(encoded(SMOOTH, "JPEG", quality=95)).astype(int)
    assert np.abs(pixels - SMOOTH).mean() < 3


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_grey_is_repeated(kind):
    grey = np.tile(np.arange(0, 240, 8, dtype=np.uint8), (20, 1))
    pixels = decode_image(encoded(grey, kind))
    assert np.array_equal(pixels[..., 0], pixels[..., 1])
    assert np.array_equal(pixels[..., 0], pixels[..., 2])
    assert np.abs(pixels[..., 0].astype(int) - grey).max() <= 2


def test_of_sixteen_bits_the_upper_eight_are_taken():
    deep = np.arange(0, 65536, 100, dtype=np.uint16)[:600].reshape(20, 30)
    pixels = decode_image(encoded(deep))
    assert np.array_equal(pixels[..., 0], deep >> 8)


def test_transparency_is_dropped():
    alpha = np.dstack([NOISE, np.tile(np.arange(30, dtype=np.uint8), (20, 1))])
    assert np.array_equal(decode_image(encoded(alpha)), NOISE)
    grey = np.dstack([NOISE[..., 0], alpha[..., 3]])
    assert np.array_equal(decode_image(encoded(grey))[..., 1], NOISE[..., 0])


def test_palette_with_transparency_makes_no_warning():
    image = Image.fromarray(SMOOTH).quantize(8)
    wanted = np.asarray(image.convert("RGB"))
    data = encoded(image, transparency=bytes(range(8)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.array_equal(decode_image(data), wanted)


def test_black_and_white():
    image = Image.fromarray(NOISE[..., 0] > 127)
    assert np.array_equal(
        decode_image(encoded(image))[..., 2], np.where(NOISE[..., 0] > 127, 255, 0)
    )


def test_cmyk():
    data = encoded(Image.fromarray(SMOOTH).convert("CMYK"), "JPEG", quality=95)
    assert np.abs(decode_image(data).astype(int) - SMOOTH).mean() < 4


def test_a_camera_s_orientation_is_not_applied():
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    data = encoded(SMOOTH, "JPEG", quality=95, exif=exif)
    assert Image.open(io.BytesIO(data)).getexif()[0x0112] == 6
    assert decode_image(data).shape == (20, 30, 3)


def refused(data, says="neither|broken"):
    with pytest.raises(ContentError, match=says) as caught:
        decode_image(data)
    assert caught.value.stage == "decode"
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_cut_off_pictures(kind):
    data = encoded(NOISE, kind)
    for size in (len(data) // 2, len(data) - 30, 30, 10):
        refused(data[:size])


@pytest.mark.parametrize(
    "data", [b"", b"text", b"\xff\xd8", b"\x89PNG\r\n\x1a\n", bytes(99)]
)
def test_no_picture(data):
    refused(data, "neither JPEG nor PNG|broken picture")


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "BMP", "WEBP"])
def test_other_formats(kind):
    refused(encoded(NOISE, kind), "neither JPEG nor PNG")


def png_header(width, height):
    """A PNG that says how large it is, and has nothing to show for it."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = b"IDAT" + zlib.compress(b"")
    chunks = [
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
        for chunk in (header, body, b"IEND")
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@pytest.mark.parametrize(
    "size",
    [(MAX_SIDE_PX + 1, 1), (1, MAX_SIDE_PX + 1), (12_000, 12_000), (60_000, 60_000)],
)
def test_bombs(size):
    """Refused by the size that the header tells: nothing is allocated."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        refused(png_header(*size), "at most 8192 px|exceeds limit")


def test_the_largest_is_not_a_bomb():
    refused(png_header(MAX_SIDE_PX, 1), "broken picture")


@settings(max_examples=150)
@given(st.data())
def test_damaged_pictures_are_pixels_or_bad_content(data):
    kind = data.draw(st.sampled_from(["PNG", "JPEG"]))
    picture = bytearray(encoded(NOISE, kind))
    for _ in range(data.draw(st.integers(1, 4))):
        picture[data.draw(st.integers(0, len(picture) - 1))] = data.draw(
            st.integers(0, 255)
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            pixels = decode_image(bytes(picture))
        except ContentError as error:
            assert error.stage == "decode"  # noqa: PT017
        else:
            assert pixels.ndim == 3


def test_slideflow_s_tiles(small_tfrecords):
    from raylatent.source.filebytes import read_records
    from raylatent.source.index import index_tfrecord
    from raylatent.source.record import parse_example

    path = str(small_tfrecords / "g00.tfrecords")
    index = index_tfrecord(path)
    for payload in read_records(path, index.offsets[:3], index.lengths[:3]):
        assert decode_image(parse_example(payload).image_raw).shape == (96, 96, 3)


def test_too_little_memory_is_not_the_tile_s_fault(monkeypatch):
    def load(_image):
        raise MemoryError

    image_raw = encoded(NOISE)
    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", load)
    with pytest.raises(StorageError, match=r"not enough memory .* 30 x 20 px"):
        decode_image(image_raw)


def tiff(pixels, **options):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "TIFF", **options)
    return buffer.getvalue()


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_deflate", "packbits"])
def test_pictures_that_are_files_may_be_tiff(compression):
    pixels = np.random.default_rng(3).integers(0, 256, (20, 30, 3), np.uint8)
    found = decode_image(tiff(pixels, compression=compression), FILE_FORMATS)
    assert np.array_equal(found, pixels)
    grey = decode_image(tiff(pixels[..., 0]), FILE_FORMATS)
    assert np.array_equal(grey, np.repeat(pixels[..., :1], 3, axis=2))
    alpha = np.dstack([pixels, pixels[..., 0]])
    assert np.array_equal(decode_image(tiff(alpha), FILE_FORMATS), pixels)
    deep = pixels[..., 0].astype(np.uint16) << 8 | 7
    assert np.array_equal(
        decode_image(tiff(deep), FILE_FORMATS)[..., 0], pixels[..., 0]
    )


def test_of_tiffs_of_16_bits_a_color_the_upper_8_are_taken():
    pixels = np.random.default_rng(3).integers(0, 65536, (20, 30, 3), np.uint16)
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, pixels, photometric="rgb")
    found = decode_image(buffer.getvalue(), FILE_FORMATS)
    assert np.array_equal(found, (pixels >> 8).astype(np.uint8))


def written(pixels, **options):
    """A TIFF as tifffile writes it."""
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, pixels, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("dtype", [np.float32, np.int32, np.int16])
def test_tiffs_of_which_nobody_knows_what_white_is_are_bad_tiles(dtype):
    data = written(np.ones((4, 4), dtype), photometric="minisblack")
    with pytest.raises(ContentError, match=r"signed numbers, fractions or .* 32 bits"):
        decode_image(data, FILE_FORMATS)


@pytest.mark.parametrize("dtype", [np.float16, np.uint64])
def test_tiffs_that_pillow_does_not_know_are_said_to_be_tiffs(dtype):
    data = written(np.ones((4, 4), dtype), photometric="minisblack")
    with pytest.raises(ContentError, match="a TIFF whose kind of pixels Pillow does"):
        decode_image(data, FILE_FORMATS)


KINDS_OF_TIFF = [
    (photometric, channels, dtype, planes, compression, order)
    for photometric, channels in (
        *(("minisblack", 1), ("miniswhite", 1), ("rgb", 3), ("rgb", 4)),
        ("minisblack", 2),
    )
    for dtype in (np.uint8, np.uint16)
    for planes in ("contig", "separate")
    for compression in (None, "zlib", "lzw")
    for order in "<>"
]


@pytest.mark.parametrize("kind", KINDS_OF_TIFF, ids=str)
def test_pixels_of_a_tiff_are_right_or_it_is_a_bad_tile(kind):
    photometric, channels, dtype, planes, compression, order = kind
    wide = np.random.default_rng(5).integers(0, 65536, (20, 30, channels), np.uint16)
    pixels = wide if dtype is np.uint16 else (wide >> 8).astype(np.uint8)
    options = {} if channels == 1 else {"planarconfig": planes}
    if channels in {2, 4}:
        options["extrasamples"] = ["unassalpha"]
    one = np.squeeze(pixels, 2) if channels == 1 else pixels
    data = written(
        np.moveaxis(one, 2, 0) if planes == "separate" and channels > 1 else one,
        photometric=photometric,
        compression=compression,
        byteorder=order,
        **options,
    )
    wanted = (wide >> 8).astype(np.uint8)[..., : 1 if channels < 3 else 3]
    wanted = 255 - wanted if photometric == "miniswhite" else wanted
    try:
        found = decode_image(data, FILE_FORMATS)
    except ContentError:
        bad = dtype is np.uint16 or channels == 2
        assert bad, "Pillow knows this kind"
    else:
        assert np.array_equal(found, np.broadcast_to(wanted, found.shape))


def test_deep_colors_in_planes_are_bad_tiles_and_deep_grey_may_be_inverted():
    deep = np.random.default_rng(3).integers(0, 65536, (3, 20, 30), np.uint16)
    data = written(deep, photometric="rgb", planarconfig="separate")
    with pytest.raises(ContentError, match="have 16 bits and lie in planes one after"):
        decode_image(data, FILE_FORMATS)
    data = written(deep[0], photometric="miniswhite")
    found = decode_image(data, FILE_FORMATS)
    assert np.array_equal(found[..., 1], 255 - (deep[0] >> 8))


def test_of_tiffs_of_12_bits_the_upper_8_are_taken():
    grey = np.random.default_rng(3).integers(0, 4096, (20, 30), np.uint16)
    first, second = grey[:, ::2], grey[:, 1::2]
    packed = np.stack(
        [first >> 4, (first & 15) << 4 | second >> 8, second & 255], axis=2
    ).astype(np.uint8)
    data = bytearray(written(packed.reshape(20, 45), photometric="minisblack"))
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        tags = file.pages[0].tags
        for name, value in (("ImageWidth", 30), ("BitsPerSample", 12)):
            at, tag = tags[name].offset + 8, tags[name]
            size = 4 if tag.dtype == tifffile.DATATYPE.LONG else 2
            data[at : at + size] = value.to_bytes(size, "little")
    found = decode_image(bytes(data), FILE_FORMATS)
    assert np.array_equal(found[..., 0], grey >> 4)


@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_tiff_is_not_turned_either(orientation, compression):
    data = tiff(NOISE, tiffinfo={274: orientation}, compression=compression)
    assert np.array_equal(decode_image(data, FILE_FORMATS), NOISE)
    deep = NOISE[..., 0].astype(np.uint16) << 8
    data = tiff(deep, tiffinfo={274: orientation}, compression=compression)
    assert np.array_equal(decode_image(data, FILE_FORMATS)[..., 0], NOISE[..., 0])


def test_tiffs_in_tfrecords_are_bad_tiles():
    content = tiff(np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(ContentError, match="neither JPEG nor PNG"):
        decode_image(content)
    with pytest.raises(ContentError, match="none of JPEG, PNG, TIFF"):
        decode_image(b"GIF89a" + bytes(20), FILE_FORMATS)
    with pytest.raises(ContentError, match="broken picture"):
        decode_image(content[:-20], FILE_FORMATS)
