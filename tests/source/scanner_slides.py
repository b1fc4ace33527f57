"""Slides as scanners write them: Aperio's SVS of two codecs, and DICOM."""

import struct
from pathlib import Path

import imagecodecs
import numpy as np
from PIL import ImageCms

from tests.source import synthetic_slides as slides

SOI, EOI = b"\xff\xd8", b"\xff\xd9"
SVS_TILE, DICOM_TILE = 240, 256
_DQT, _DHT, _SOS, _APP0 = 0xDB, 0xC4, 0xDA, 0xE0


def _parted(jpeg):
    """A JPEG's tables by themselves, and the picture without them, as TIFF parts them."""
    tables, rest, at = b"", b"", len(SOI)
    while jpeg[at + 1] != _SOS:
        end = at + 2 + int.from_bytes(jpeg[at + 2 : at + 4], "big")
        if jpeg[at + 1] in (_DQT, _DHT):
            tables += jpeg[at:end]
        elif jpeg[at + 1] < _APP0:  # what applications say of it is left out
            rest += jpeg[at:end]
        at = end
    return SOI + tables + EOI, SOI + rest + jpeg[at:]


def _rgb_jpeg(pixels):
    return _parted(slides.jpeg(pixels, subsampling="4:4:4", keep_rgb=True))


def _without_tables(pixels, level, row, col):
    return _rgb_jpeg(pixels)[1]


def _jpeg2000(pixels, level, row, col):
    """A codestream without a file around it."""
    pixels = np.ascontiguousarray(pixels)
    return imagecodecs.jpeg2k_encode(pixels, codecformat="j2k", reversible=True)


def write_svs(path, pixels, *, mpp=0.499, shrinks=(2,), jpeg2000=False):
    """A slide by Aperio.

    Args:
        path: The file.
        pixels: Level 0, (h, w, 3) uint8.
        mpp: What the description says; None: it does not say.
        shrinks: Of the levels after it.
        jpeg2000: Tiles are JPEG 2000, with a color profile beside them; else JPEGs of
            RGB, all of whose tables are in one place.
    """
    height, width = pixels.shape[:2]
    codec = "J2K/KDU Q=70" if jpeg2000 else "JPEG/RGB Q=90"
    said = f"{width}x{height} [0,0 {width}x{height}] ({SVS_TILE}x{SVS_TILE}) {codec}"
    said = f"Aperio Image Library v11.2.1 \r\n{said}|AppMag = 20"
    style = {"description": said if mpp is None else f"{said}|MPP = {mpp:.4f}"}
    if jpeg2000:
        profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
        style |= {"compression": 33005, "photometric": "rgb", "iccprofile": profile}
        encode = _jpeg2000
    else:
        tables, _ = _rgb_jpeg(np.zeros((SVS_TILE, SVS_TILE, 3), np.uint8))
        style |= {**slides.RGB_JPEG, "subsampling": (1, 1), "jpegtables": tables}
        encode = _without_tables
    levels = slides.pyramid(pixels, *shrinks)
    options = {"tile": SVS_TILE, "mpp": None, "encode": encode, "style": style}
    return slides.write_slide(path, levels, **options)


def break_svs(path):
    """Spoil every tile of a slide's level 0: it opens, and cannot be read."""
    rows, cols = slides.tiles_of(path)[0].shape
    slides.break_tiles(path, [(row, col) for row in range(rows) for col in range(cols)])


def _element(group, number, kind, value):
    """A data element, explicit VR and little endian."""
    if isinstance(value, int):
        value = struct.pack({"US": "<H", "UL": "<I"}[kind], value)
    elif isinstance(value, str):
        value = value.encode()
    if len(value) % 2:
        value += b"\0" if kind in {"UI", "OB"} else b" "
    head = struct.pack("<HH", group, number) + kind.encode()
    if kind in {"OB", "SQ"}:
        return head + struct.pack("<HI", 0, len(value)) + value
    return head + struct.pack("<H", len(value)) + value


def _item(content=b""):
    content += bytes(len(content) % 2)
    return struct.pack("<HHI", 0xFFFE, 0xE000, len(content)) + content


def _meta(instance):
    """What begins a DICOM file: that it is a whole slide of JPEGs."""
    found = [
        _element(2, 0x0001, "OB", b"\0\1"),
        _element(2, 0x0002, "UI", "1.2.840.10008.5.1.4.1.1.77.1.6"),
        _element(2, 0x0003, "UI", instance),
        _element(2, 0x0010, "UI", "1.2.840.10008.1.2.4.50"),
        _element(2, 0x0012, "UI", "2.25.1"),
    ]
    content = b"".join(found)
    return bytes(128) + b"DICM" + _element(2, 0, "UL", len(content)) + content


def write_dicom(folder, pixels, *, mpp):
    """A slide of one level in DICOM, a folder with a file of JPEG tiles."""
    height, width = pixels.shape[:2]
    rows, cols = -(-height // DICOM_TILE), -(-width // DICOM_TILE)
    full = np.full((rows * DICOM_TILE, cols * DICOM_TILE, 3), 255, np.uint8)
    full[:height, :width] = pixels
    frames = [
        _item(slides.jpeg(full[y : y + DICOM_TILE, x : x + DICOM_TILE]))
        for y in range(0, height, DICOM_TILE)
        for x in range(0, width, DICOM_TILE)
    ]
    spacing = f"{mpp / 1000:.6f}\\{mpp / 1000:.6f}"  # mm
    measures = _element(0x28, 0x9110, "SQ", _item(_element(0x28, 0x30, "DS", spacing)))
    dataset = [
        _element(0x0008, 0x0008, "CS", "DERIVED\\PRIMARY\\VOLUME\\RESAMPLED"),
        _element(0x0008, 0x0016, "UI", "1.2.840.10008.5.1.4.1.1.77.1.6"),
        _element(0x0008, 0x0018, "UI", "2.25.2"),
        _element(0x0008, 0x0060, "CS", "SM"),
        _element(0x0020, 0x000D, "UI", "2.25.3"),
        _element(0x0020, 0x000E, "UI", "2.25.4"),
        _element(0x0020, 0x0013, "IS", "1"),
        _element(0x0020, 0x0052, "UI", "2.25.5"),
        _element(0x0020, 0x9311, "CS", "TILED_FULL"),
        _element(0x0028, 0x0002, "US", 3),
        _element(0x0028, 0x0004, "CS", "YBR_FULL_422"),
        _element(0x0028, 0x0006, "US", 0),
        _element(0x0028, 0x0008, "IS", str(len(frames))),
        _element(0x0028, 0x0010, "US", DICOM_TILE),
        _element(0x0028, 0x0011, "US", DICOM_TILE),
        *(_element(0x0028, n, "US", v) for n, v in _BITS),
        _element(0x0048, 0x0006, "UL", width),
        _element(0x0048, 0x0007, "UL", height),
        _element(0x5200, 0x9229, "SQ", _item(measures)),
        struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OB", 0, 0xFFFFFFFF),
        _item(),  # without an index of the frames
        *frames,
        struct.pack("<HHI", 0xFFFE, 0xE0DD, 0),
    ]
    folder = Path(folder)
    folder.mkdir(parents=True)
    (folder / "slide.dcm").write_bytes(_meta("2.25.2") + b"".join(dataset))
    return folder


_BITS = ((0x0100, 8), (0x0101, 8), (0x0102, 7), (0x0103, 0))
"""Bits allocated and stored, the highest one, and that values have no sign."""
