r"""What reading tiles of a slide costs, against a plain loop of `read_region`.

    RAYLATENT_TEST_DATA=../shared python tests/benchmarks/bench_slide_reads.py

Builds a slide of 20,480 x 20,480 px out of real tissue (JPEG tiles of 256 px, 3 levels;
without test data scikit-image's picture of tissue, again and again), then reads it by one thread, tiles not aligned with the file's own: tile by tile through
OpenSlide in row order, and as `atlas` does, unit by unit in regions. Both in turns, CPU
time; the least of each counts. Then peak memory for one and for four times as many tiles,
each in a process of its own.
"""

import argparse
import io
import os
import resource
import subprocess
import sys
import tempfile
import time
from itertools import product
from pathlib import Path

import numpy as np
import openslide
import tifffile
from PIL import Image

from raylatent.source.wsi import WSI

SIDE_PX = 20_480
FILE_TILE_PX = 256
QUALITY = 90
MPP = 0.5
TILE_PX = 224
ORIGIN = (13, 17)  # no tile begins where a tile of the file does
UNIT_TILES = 2048
TISSUE = "data/slides/CMU-1-Small-Region.svs"


def tissue(data):
    """Real tissue whose sides are whole tiles of the file at every level."""
    path = Path(data) / TISSUE
    if not path.is_file():
        from skimage.data import immunohistochemistry

        return np.tile(immunohistochemistry(), (2, 2, 1))
    slide = openslide.OpenSlide(path)
    pixels = np.asarray(slide.read_region((0, 0), 0, slide.dimensions).convert("RGB"))
    step = FILE_TILE_PX * 4
    height, width = (side // step * step for side in pixels.shape[:2])
    return pixels[:height, :width]


def jpeg(pixels):
    """An encoded tile."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=QUALITY, subsampling="4:2:0")
    return buffer.getvalue()


def write_slide(path, pixels, side_px):
    """A pyramid of three levels, the tissue repeated over it."""
    with tifffile.TiffWriter(path, bigtiff=True) as tiff:
        for level, shrink in enumerate((1, 4, 16)):
            small = np.asarray(Image.fromarray(pixels).reduce(shrink))
            n = side_px // shrink
            made = {}

            def tiles(small=small, n=n, made=made):
                starts = range(0, n, FILE_TILE_PX)
                for y, x in product(starts, starts):
                    key = (y % small.shape[0], x % small.shape[1])
                    if key not in made:
                        rows = (np.arange(FILE_TILE_PX) + key[0]) % small.shape[0]
                        cols = (np.arange(FILE_TILE_PX) + key[1]) % small.shape[1]
                        made[key] = jpeg(small[np.ix_(rows, cols)])
                    yield made[key]

            tiff.write(
                tiles(),
                shape=(n, n, 3),
                dtype=np.uint8,
                tile=(FILE_TILE_PX, FILE_TILE_PX),
                compression="jpeg",
                photometric="ycbcr",
                subsampling=(2, 2),
                resolution=(1e4 / MPP / shrink, 1e4 / MPP / shrink),
                resolutionunit="CENTIMETER",
                subfiletype=1 if level else 0,
            )


def open_grid(path, tile_um):
    """The slide, its whole grid kept."""
    return WSI(path, TILE_PX, tile_um, origin=ORIGIN)


def plain_loop(path, tile_um, n_rows):
    """CPU ms a tile of the loop that everybody writes."""
    wsi = open_grid(path, tile_um)
    slide = openslide.OpenSlide(path)
    level = wsi.downsample_level
    side = round(wsi.full_extract_px / wsi.levels[level]["downsample"])
    started = time.process_time()
    for y, x in product(wsi.geometry.ys[:n_rows], wsi.geometry.xs):
        image = slide.read_region((int(x), int(y)), level, (side, side)).convert("RGB")
        if side != TILE_PX:
            image = image.resize((TILE_PX, TILE_PX), Image.Resampling.BILINEAR)
        np.asarray(image)
    return (time.process_time() - started) / (n_rows * wsi.grid.shape[1]) * 1e3


def by_regions(path, tile_um, n_rows, *, fast=True):
    """CPU ms a tile of the reading stage, units of whole rows."""
    wsi = open_grid(path, tile_um)
    if not fast:
        wsi.handle._tiff = None
    n_cols = wsi.grid.shape[1]
    rows_of_unit = max(1, round(UNIT_TILES / n_cols))
    n_tiles = 0
    started = time.process_time()
    for first in range(0, n_rows, rows_of_unit):
        shape = (min(rows_of_unit, n_rows - first), n_cols)
        rows, cols = (indices.reshape(-1) for indices in np.indices(shape))
        for region in wsi.reader.regions(rows + first, cols):
            n_tiles += sum(1 for _ in wsi.reader.read(region))
    return (time.process_time() - started) / n_tiles * 1e3


def compare(path, tile_um, n_rows, n_turns):
    """Both in turns; prints a line."""
    ways = {
        "plain loop": lambda: plain_loop(path, tile_um, n_rows),
        "regions": lambda: by_regions(path, tile_um, n_rows),
        "by OpenSlide": lambda: by_regions(path, tile_um, n_rows, fast=False),
    }
    times = {name: [] for name in ways}
    for _ in range(n_turns):
        for name, way in ways.items():
            times[name].append(way())
    least = {name: min(found) for name, found in times.items()}
    ratios = sorted(
        b / a for a, b in zip(times["plain loop"], times["regions"], strict=True)
    )
    shown = "  ".join(f"{name} {ms:.3f} ms" for name, ms in least.items())
    ratio = least["regions"] / least["plain loop"]
    print(
        f"{TILE_PX} px of {tile_um:g} µm: {shown}  "
        f"ratio {ratio:.2f} (turns: {ratios[0]:.2f} to {ratios[-1]:.2f})"
    )
    return ratio


def peak_memory(path, n_rows):
    """Peak RSS in MiB of a process that reads so many rows of tiles."""
    command = [sys.executable, __file__, "--slide", path, "--read-rows", str(n_rows)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603
    return float(done.stdout.split()[-1])


def main(argv=None):
    """Measure; the ratio of the case without resampling."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--data", default=os.environ.get("RAYLATENT_TEST_DATA", "../shared")
    )
    parser.add_argument("--side-px", type=int, default=SIDE_PX)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--slide", help="read this slide and print the peak memory")
    parser.add_argument("--read-rows", type=int, default=0)
    given = parser.parse_args(argv)
    if given.slide:
        by_regions(given.slide, TILE_PX * MPP, given.read_rows)
        peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(f"{peak_kib / 1024:.1f}")
        return 0.0
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "slide.tif")
        write_slide(path, tissue(given.data), given.side_px)
        rows = given.side_px // TILE_PX - 1
        print(
            f"slide of {given.side_px:,} px, {Path(path).stat().st_size / 1e6:.0f} MB"
        )
        matched = compare(path, TILE_PX * MPP, max(1, rows // 4), given.turns)
        compare(path, 2 * TILE_PX * MPP, max(1, rows // 8), given.turns)
        few, many = (max(1, rows * share // 8) for share in (2, 8))
        small, large = peak_memory(path, few), peak_memory(path, many)
        tiles = (many - few) * rows
        grown = (large - small) * 2**20 / max(1, tiles)
        print(
            f"peak memory: {small:.0f} MiB for {few * rows:,} tiles, {large:.0f} MiB for "
            f"{many * rows:,}: {grown:.0f} bytes a tile more"
        )
    return matched


if __name__ == "__main__":
    main()
