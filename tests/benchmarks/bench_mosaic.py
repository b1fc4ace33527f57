r"""What a mosaic costs: 50 x 50 cells of 100 px from 4,000 tiles of 299 px in TFRecords.

    python tests/benchmarks/bench_mosaic.py

Tiles are JPEGs as `extract-tiles` writes them, by default cut out of a made picture that
looks like tissue (smooth stroma, nuclei, no noise), with `--pictures FOLDER` out of real
pictures. Each turn chooses, draws and saves a mosaic in a process of its own, which says
its CPU seconds (user and system, all threads) and its peak resident memory, both beyond
what it had once everything was imported. Printed are medians.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

SLIDES = 10
TILE_PX = 299
NUM_TILES_X = 50
CELL_PX = 100
QUALITY = 95  # the default of extract-tiles
SIDE_PX = 3000
PINK, VIOLET, WHITE = (232, 178, 205), (96, 62, 140), (243, 240, 243)


def tissue(random):
    """A picture (SIDE_PX, SIDE_PX, 3) of stroma, holes and nuclei."""
    from scipy.ndimage import gaussian_filter

    def field(sigma):
        smooth = gaussian_filter(random.normal(size=(SIDE_PX, SIDE_PX)), sigma)
        return ((smooth / smooth.std())[..., None]).astype(np.float32)

    picture = np.array(PINK, np.float32) + 9 * field(30) + 7 * field(3)
    seeds = random.random((SIDE_PX, SIDE_PX)) < 1 / 700
    round_ = gaussian_filter(seeds.astype(np.float32), 3.5)[..., None]
    nuclei = 1 / (1 + np.exp(-25 * (round_ / round_.max() - 0.25)))
    holes = 1 / (1 + np.exp(-9 * (field(60) - 1.3)))
    for share, color in ((nuclei, VIOLET), (holes, WHITE)):
        picture += share * (np.array(color, np.float32) + 6 * field(2) - picture)
    return np.clip(picture, 0, 255).astype(np.uint8)


def windows(pictures, random):
    """Tiles cut out of pictures at random places, without end."""
    while True:
        picture = pictures[random.integers(len(pictures))]
        top, left = (random.integers(side - TILE_PX + 1) for side in picture.shape[:2])
        yield picture[top : top + TILE_PX, left : left + TILE_PX]


def real(folder):
    """The pictures of a folder, none smaller than a tile."""
    from PIL import Image

    for path in sorted(Path(folder).rglob("*")):
        if path.suffix.lower() in {".jpg", ".jpeg", ".png", ".tif", ".tiff"}:
            with Image.open(path) as image:
                ratio = max(1.0, TILE_PX / min(image.size))
                size = [int(np.ceil(side * ratio)) for side in image.size]
                yield np.asarray(image.convert("RGB").resize(size))


def write_tiles(folder, n_tiles, pictures):
    """TFRecords of as many tiles in all, and the points of a map of them."""
    import pyarrow as pa

    from raylatent.source.record import TileRecord
    from raylatent.source.write import encode_tile, write_tfrecord

    random = np.random.default_rng(0)
    cut = windows(list(pictures), random)
    each = n_tiles // SLIDES
    for slide in range(SLIDES):
        records = [
            TileRecord(encode_tile(next(cut), "jpg", QUALITY), None, 8 * i, 8 * i)
            for i in range(each)
        ]
        write_tfrecord(folder / f"slide{slide}.tfrecords", records)
    names = np.repeat([f"slide{slide}" for slide in range(SLIDES)], each)
    columns = {"slide": names.tolist(), "tile_index": np.tile(np.arange(each), SLIDES)}
    # One point in each cell, the others anywhere.
    cells = np.stack(np.divmod(np.arange(NUM_TILES_X**2), NUM_TILES_X), axis=1)
    some = random.random((each * SLIDES, 2)) * NUM_TILES_X
    xy = np.concatenate([[[0, 0], [NUM_TILES_X] * 2], cells + 0.5, some])
    xy = random.permutation(xy[: each * SLIDES]).astype(np.float32)
    return pa.table({**columns, "x": xy[:, 0], "y": xy[:, 1]})


def child(folder, with_labels):
    """One mosaic in this process; what it cost on the last line."""
    import resource

    import pyarrow.parquet as pq

    import raylatent.tiles.fetch
    from raylatent.mosaic import Mosaic

    points = pq.read_table(f"{folder}/points.parquet")
    del raylatent.tiles.fetch

    def memory(name):
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(x for x in lines if x.startswith(name)).split()[1]) / 1024

    def cpu_s():
        used = resource.getrusage(resource.RUSAGE_SELF)
        return used.ru_utime + used.ru_stime

    before, started = memory("VmRSS"), cpu_s()
    slides = sorted(set(points["slide"].to_pylist()))
    labels = {name: name for name in slides} if with_labels else None
    mosaic = Mosaic(
        points,
        tfrecords=folder,
        num_tiles_x=NUM_TILES_X,
        cell_px=CELL_PX,
        labels=labels,
    )
    chosen = cpu_s() - started
    mosaic.save(f"{folder}/mosaic.png")
    cost = {
        "cpu_s": cpu_s() - started,
        "choose_s": chosen,
        "mib": memory("VmHWM") - before,
        "cells": len(mosaic.cells),
    }
    print(json.dumps(cost))


def measure(folder, *more):
    """What one mosaic costs in a process of its own."""
    done = subprocess.run(  # noqa: S603
        [sys.executable, __file__, "--child", str(folder), *more],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def main(argv=None):
    """Measure and print; the median of CPU seconds and of MiB."""
    import pyarrow.parquet as pq

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiles", type=int, default=4000)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--pictures", help="a folder of pictures to cut tiles out of")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--labels", action="store_true", help="frames and a legend")
    options = parser.parse_args(argv)
    if options.child:
        child(options.child, options.labels)
        return None
    random = np.random.default_rng(0)
    pictures = real(options.pictures) if options.pictures else [tissue(random)]
    with tempfile.TemporaryDirectory(prefix="raylatent-bench-") as folder:
        points = write_tiles(Path(folder), options.tiles, pictures)
        pq.write_table(points, f"{folder}/points.parquet")
        n_bytes = sum(f.stat().st_size for f in Path(folder).glob("*.tfrecords"))
        more = ["--labels"] if options.labels else []
        found = [measure(folder, *more) for _ in range(options.turns)]
        saved = (Path(folder) / "mosaic.png").stat().st_size
    print(
        f"{options.tiles:,} tiles of {TILE_PX} px ({n_bytes / options.tiles / 1e3:.0f} kB "
        f"each), {found[0]['cells']:,} cells of {CELL_PX} px, PNG {saved / 1e6:.1f} MB"
    )
    medians = {}
    for key, name in (
        ("cpu_s", "CPU seconds"),
        ("choose_s", "of which choosing"),
        ("mib", "peak MiB"),
    ):
        values = [cost[key] for cost in found]
        medians[key] = statistics.median(values)
        print(
            f"{name:<18}{medians[key]:>8.2f} ({min(values):.2f} to {max(values):.2f})"
        )
    return medians["cpu_s"], medians["mib"]


if __name__ == "__main__":
    main()
