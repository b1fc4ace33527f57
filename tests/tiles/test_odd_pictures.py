"""Pictures that are damaged, deep, or made to do harm: right pixels, or bad content."""

import io
import struct
import time
import tracemalloc
import zlib

import imagecodecs
import numpy as np
import pytest
from PIL import Image

from raylatent.errors import ContentError
from raylatent.source.picture import MAX_SCANS
from raylatent.tiles.decode import decode_image

GENERATOR = np.random.default_rng(0)
NOISE = GENERATOR.integers(0, 256, (40, 48, 3), np.uint8)
SMOOTH = np.stack(
    np.broadcast_arrays(
        np.arange(48) * 5, np.arange(40)[:, None] * 6, np.full((40, 48), 99)
    ),
    axis=2,
).astype(np.uint8)


def encoded(pixels, kind="JPEG", **options):
    buffer = io.BytesIO()
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def error_of(data):
    """What is wrong with a picture, None where it decodes."""
    try:
        pixels = decode_image(data)
    except ContentError as error:
        return f"{error.stage}: {error}"
    assert pixels.dtype == np.uint8
    return None


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("pixels", [NOISE, NOISE[..., 0]], ids=["color", "grey"])
def test_a_jpeg_cut_off_anywhere_is_bad(pixels, progressive):
    data = encoded(pixels, quality=90, progressive=progressive)
    whole = decode_image(data)
    for size in range(len(data)):
        assert error_of(data[:size]).startswith("decode: "), size
    for size in range(data.index(b"\xff\xda") + 20, len(data) - 8, 7):
        # It ends as it should, but too early: Pillow alone makes grey of the rest.
        said = error_of(data[:size] + b"\xff\xd9")
        if said is None:  # a later scan, which refines, is missing
            assert progressive
    assert np.array_equal(decode_image(data + b"\0" * 9), whole)


def test_garbage_in_the_data_of_a_jpeg_is_mostly_noticed():
    """It has no checksum: what is still a code of the picture's is not noticed."""
    data = encoded(NOISE, quality=90)
    start = data.index(b"\xff\xda") + 20
    bad = 0
    for at in range(start, len(data) - 40, 13):
        content = bytearray(data)
        content[at : at + 30] = bytes(30)
        bad += error_of(bytes(content)) is not None
    assert bad > 0.9 * len(range(start, len(data) - 40, 13))


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0", "4:1:1"])
@pytest.mark.parametrize("size", [(40, 48), (31, 17), (8, 8), (1, 1), (3, 90)])
def test_pixels_of_jpegs_are_pillow_s(subsampling, size):
    for pixels in (NOISE, SMOOTH, NOISE[..., 0]):
        for quality in (30, 75, 95):
            for progressive in (False, True):
                data = encoded(
                    np.resize(pixels, (*size, *pixels.shape[2:])),
                    quality=quality,
                    progressive=progressive,
                    subsampling=subsampling if pixels.ndim == 3 else -1,
                )
                wanted = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
                assert np.array_equal(decode_image(data), wanted)


@pytest.mark.parametrize("factors", [(0x22, 0x12, 0x11), (0x11, 0x22, 0x22)])
def test_jpegs_of_odd_sampling_are_pillow_s(factors):
    data = bytearray(encoded(np.full((64, 64, 3), 128, np.uint8), subsampling=0))
    frame = data.index(b"\xff\xc0")
    data[frame + 11 : frame + 20 : 3] = bytes(factors)
    wanted = np.asarray(Image.open(io.BytesIO(data)))
    assert np.array_equal(decode_image(bytes(data)), wanted)


def test_a_jpeg_of_plain_red_green_and_blue():
    data = encoded(SMOOTH, quality=95, keep_rgb=True)
    assert np.abs(decode_image(data).astype(int) - SMOOTH).mean() < 3


def chunk(name, body):
    return (
        struct.pack(">I", len(body))
        + name
        + body
        + struct.pack(">I", zlib.crc32(name + body))
    )


def png(width, height, depth, color, rows, *extra):
    """A PNG of raw rows, each with filter 0."""
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    body = zlib.compress(b"".join(b"\0" + row for row in rows))
    return b"".join(
        [
            b"\x89PNG\r\n\x1a\n",
            chunk(b"IHDR", header),
            *extra,
            chunk(b"IDAT", body),
            chunk(b"IEND", b""),
        ]
    )


@pytest.mark.parametrize(
    ("color", "channels"),
    [(0, 1), (2, 3), (4, 2), (6, 4)],
    ids=["L", "RGB", "LA", "RGBA"],
)
def test_of_sixteen_bits_the_upper_eight_are_taken(color, channels):
    deep = GENERATOR.integers(0, 65536, (20, 30, channels)).astype(">u2")
    data = png(30, 20, 16, color, [row.tobytes() for row in deep])
    colors = (deep >> 8).astype(np.uint8)[..., : 3 if channels > 2 else 1]
    assert np.array_equal(decode_image(data), np.broadcast_to(colors, (20, 30, 3)))


def test_a_transparent_color_is_a_color():
    extra = chunk(b"tRNS", struct.pack(">HHH", 0, 0, 99))
    data = png(48, 40, 8, 2, [row.tobytes() for row in SMOOTH], extra)
    assert np.array_equal(decode_image(data), SMOOTH)
    extra = chunk(b"tRNS", struct.pack(">H", 7))
    data = png(48, 40, 8, 0, [row.tobytes() for row in NOISE[..., 0].copy()], extra)
    assert np.array_equal(decode_image(data)[..., 2], NOISE[..., 0])


@pytest.mark.parametrize("how", ["CMYK", "YCCK"])
def test_colors_of_printers(how):
    """As Adobe writes them, inverted."""
    ink = 255 - np.dstack([SMOOTH, np.full(SMOOTH.shape[:2], 255, np.uint8)])
    data = imagecodecs.jpeg8_encode(
        255 - ink, level=98, colorspace="CMYK", outcolorspace=how, subsampling="444"
    )
    if b"Adobe" not in data:  # the mark that tells the inverted
        adobe = b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0" + bytes([2 * (how == "YCCK")])
        data = data[:2] + adobe + data[2:]
    assert Image.open(io.BytesIO(data)).mode == "CMYK"
    assert np.abs(decode_image(data).astype(int) - SMOOTH).mean() < 3


BOMBS = ("zTXt", "iCCP", "iTXt", "many zTXt", "IDAT", "scans", "sides")


@pytest.fixture(scope="module")
def bombs():
    """Small pictures that would be large, or slow."""
    much = zlib.compress(bytes(100 << 20), 9)
    rows = [bytes(30)] * 10
    text = chunk(b"zTXt", b"k\0\0" + much)
    profile = chunk(b"iCCP", b"k\0\0" + much)
    inter = chunk(b"iTXt", b"k\0\1\0\0\0" + much)
    texts = chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(1 << 20), 9)) * 400
    header = struct.pack(">IIBBBBB", 8192, 8192, 16, 6, 0, 0, 0)
    scans = encoded(Image.new("RGB", (4000, 4000)), quality=75, progressive=True)
    last = scans[scans.rindex(b"\xff\xda") : -2]
    rest = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
    return {
        "zTXt": png(10, 10, 8, 2, rows, text),
        "iCCP": png(10, 10, 8, 2, rows, profile),
        "iTXt": png(10, 10, 8, 2, rows, inter),
        "many zTXt": png(10, 10, 8, 2, rows, texts),
        "IDAT": rest + chunk(b"IDAT", much) + chunk(b"IEND", b""),
        "scans": scans[:-2] + last * 20_000 + b"\xff\xd9",
        "sides": rest.replace(
            header, struct.pack(">IIBBBBB", 1 << 30, 1 << 30, *header[8:])
        ),
    }


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_take_neither_memory_nor_time(bombs, name):
    tracemalloc.start()
    started = time.process_time()
    said = error_of(bombs[name])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 60 << 20
    assert time.process_time() - started < 5
    if name == "scans":
        assert f"scans: tiles have at most {MAX_SCANS}" in said
    if name in {"zTXt", "iCCP", "iTXt", "many zTXt", "sides"}:
        assert said is not None


def test_a_progressive_jpeg_of_many_scans_is_fine():
    data = encoded(SMOOTH, quality=95, progressive=True)
    assert 5 < data.count(b"\xff\xda") < MAX_SCANS
    assert error_of(data) is None
