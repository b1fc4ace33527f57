"""TFRecords with one data fault each, and what is left of them."""

import io
import struct
import zlib
from dataclasses import dataclass, field, replace

import numpy as np
from PIL import Image

from raylatent.source.record import frame
from raylatent.source.write import example
from tests.source.frames import frames_of, write_sidecar

N = 6  # records of each file
BAD = 2  # the one that is spoiled


@dataclass(frozen=True)
class Spoiled:
    """A file with a fault.

    Attributes:
        fault: Its kind in the ledger.
        content: The file's bytes.
        bad: Tile indices that are quarantined.
        says: What is said of the first of them.
        error: What is said of the slide, None where it does not fail.
        frames: Of the index beside, None where there is none.
        twin: The same tiles as plain pictures.
        n: Tiles in all.
    """

    fault: str
    content: bytes
    bad: tuple[int, ...] = ()
    says: str = ""
    error: str | None = None
    frames: object = None
    twin: list = field(default_factory=list)
    n: int = N


def pixels_of(tile):
    return np.asarray(Image.open(io.BytesIO(tile.image_raw)).convert("RGB"))


def picture(pixels, kind="PNG", **options):
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png(width, height, depth, data):
    """A PNG of three channels."""

    def chunk(name, body):
        crc = struct.pack(">I", zlib.crc32(name + body))
        return struct.pack(">I", len(body)) + name + body + crc

    header = struct.pack(">IIBBBBB", width, height, depth, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(data)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*one) for one in chunks)


def png16(pixels):
    """A PNG of 16 bits a channel whose upper 8 are these pixels."""
    deep = (pixels.astype(np.uint16) << 8 | 77).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in deep)
    return png(pixels.shape[1], pixels.shape[0], 16, rows)


def bomb():
    """A PNG of a few bytes that says it has 60,000 x 60,000 pixels."""
    return png(60_000, 60_000, 8, b"")


def exif():
    found = Image.Exif()
    found[0x0112] = 6  # turn by 90 degrees
    return found


def of_bytes(tiles):
    """{slide: a file whose bytes are spoiled}."""
    payloads = [example(tile) for tile in tiles]
    whole = b"".join(map(frame, payloads))
    frames = frames_of(payloads)
    start, end = int(frames[BAD, 0]), int(frames[BAD].sum())

    def flipped(at):
        content = bytearray(whole)
        content[at] ^= 16
        return bytes(content)

    zeroed = whole[: start + 40] + bytes(end - start) + whole[end + 40 :]
    empty = b"".join(map(frame, [*payloads[:BAD], b"", *payloads[BAD + 1 :]]))
    return {
        "payload": Spoiled(
            "data: payload flipped", flipped(start + 100), (BAD,), "payload"
        ),
        "crc": Spoiled(
            "data: length checksum flipped", flipped(start + 9), (BAD,), "one record"
        ),
        "crc-first": Spoiled(
            "data: length checksum flipped", flipped(8), (0,), "are one record"
        ),
        "crc-index": Spoiled(
            "data: length checksum flipped",
            flipped(start + 10),
            (BAD,),
            "are one record",
            frames=frames,
        ),
        "length": Spoiled(
            "data: length flipped", flipped(start), (BAD,), "are one record"
        ),
        "length-last": Spoiled(
            "data: length flipped",
            flipped(int(frames[-1, 0]) + 1),
            (N - 1,),
            "are one record",
        ),
        "length-index": Spoiled(
            "data: length flipped",
            flipped(start + 1),
            (BAD,),
            "are one record",
            frames=frames,
        ),
        "zeros": Spoiled(
            "data: payload flipped",
            zeroed,
            (BAD, BAD + 1),
            "payload|no right record length",
            frames=frames,
        ),
        "missing": Spoiled(  # bytes of a payload
            "data: payload flipped",
            whole[: start + 50] + whole[start + 90 :],
            (BAD,),
            "other bytes in it",
        ),
        "cut": Spoiled(
            "data: truncated tail",
            whole[:-100],
            (N - 1,),
            "other bytes in it",
            "breaks off in record 5",
        ),
        "cut-index": Spoiled(
            "data: truncated tail",
            whole[: int(frames[-1, 0])],
            error="ends after 5 records, of which its index has 6",
            frames=frames,
            n=N - 1,
        ),
        "zz-empty": Spoiled("data: empty file", b"", n=0),
        "zero-length": Spoiled(
            "data: zero-length record", empty, (BAD,), "no image_raw"
        ),
        "garbage": Spoiled(
            "data: trailing garbage",
            whole + bytes(range(200)),
            (N,),
            "one tile or more",
            "are no record",
            n=N + 1,
        ),
    }


def of_pictures(tiles):
    """{slide: a file with an odd or broken picture}."""
    pixels = pixels_of(tiles[BAD])
    grey = pixels[..., 1]
    alpha = np.dstack([pixels, grey])
    cmyk = Image.fromarray(pixels).convert("CMYK")
    smaller = Image.fromarray(pixels).resize((60, 70))
    raw = tiles[BAD].image_raw
    printed = picture(cmyk, "JPEG", quality=95)

    def fault(kind, image_raw, plain=None, says=""):
        """A file with this picture, and its twin with the plain pixels."""
        records = list(tiles)
        records[BAD] = replace(records[BAD], image_raw=image_raw)
        twin = list(tiles)
        if plain is not None:
            twin[BAD] = replace(twin[BAD], image_raw=picture(plain))
        content = b"".join(frame(example(record)) for record in records)
        bad = () if plain is not None else (BAD,)
        return Spoiled(f"data: {kind}", content, bad, says, twin=twin)

    resized = smaller.resize((96, 96), Image.Resampling.BICUBIC)
    return {
        "jpeg-cut": fault("broken JPEG", raw[: len(raw) // 2], says="broken picture"),
        "jpeg-ended": fault(
            "broken JPEG", raw[: len(raw) // 2] + b"\xff\xd9", says="broken picture"
        ),
        "text": fault("broken JPEG", b"no picture", says="neither JPEG nor PNG"),
        "deep": fault("16-bit picture", png16(pixels), pixels),
        "deep-grey": fault(
            "16-bit picture",
            picture(grey.astype(np.uint16) * 257),
            np.dstack([grey] * 3),
        ),
        "cmyk": fault(
            "CMYK picture", printed, Image.open(io.BytesIO(printed)).convert("RGB")
        ),
        "grey": fault("grey picture", picture(grey), np.dstack([grey] * 3)),
        "alpha": fault("alpha picture", picture(alpha), pixels),
        "smaller": fault("another size, resized", picture(smaller), resized),
        "bomb": fault("decompression bomb", bomb(), says="at most 8192 px|exceeds"),
        "turned": fault(
            "EXIF-rotated JPEG", raw[:2] + _app1(exif().tobytes()) + raw[2:], pixels
        ),
    }


def _app1(body):
    return b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body


def write(folder, slide, spoiled):
    """Put a file in place, and its index."""
    path = folder / f"{slide}.tfrecords"
    path.write_bytes(spoiled.content)
    if spoiled.frames is not None:
        write_sidecar(path, spoiled.frames)
