r"""What an explorer of N and 10 N rows costs, and how large it is against its forecast.

    python tests/benchmarks/bench_explore.py --rows 1000000

Rows are made: clumps on the map as UMAP gives them, 5,000 a slide, tiles of 224 px out of
one TFRecord. For each size a process of its own writes the explorer in one loop, without
a cluster, so that its memory is that of driver and tasks together. Printed are wall and
CPU seconds, peak resident memory, the cells that have a picture, and the size of all
files over the size that was forecast; last, the larger peak over the smaller one. With
--ray the verb runs a second time, on Ray here: peaks of the driver, and of the largest of
the workers. Activations there are none, so that cells are not compared.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))  # run as a script
from tests.benchmarks.bench_memory import measure, peak_bytes  # noqa: E402

SLIDE_ROWS = 5_000
TILES, TILE_PX = 1_000, 224
CLUMPS = 90


def write_tiles(path):
    """A TFRecord of painted tiles; the frames of its records, (n, 2)."""
    from raylatent.source.index import index_tfrecord
    from raylatent.source.record import TileRecord
    from raylatent.source.write import encode_tile, write_tfrecord
    from tests.small_data import painted

    pictures = (painted((0, k), TILE_PX, TILE_PX) for k in range(TILES))
    write_tfrecord(
        path, [TileRecord(encode_tile(p, "jpg", 75), "t", 112, 112) for p in pictures]
    )
    index = index_tfrecord(path)
    return np.stack([index.offsets, index.lengths], axis=1)


def write_rows(folder, n):
    """A run with a map of n rows; its tiles are those of one TFRecord, again and again."""
    import pyarrow as pa

    from raylatent import schema
    from raylatent.run import RunDirectory
    from raylatent.run.settings import RUN_JSON, settings_text
    from raylatent.source.protocol import Source, sources_table
    from raylatent.storage import FileStat
    from tests.stored_maps import LAYER, reference, write_map

    frames = write_tiles(folder / "t.tfrecords")
    run = RunDirectory(str(folder / "run"))
    fields = {"dtype": "float32", "tile_px": TILE_PX}
    run.store.write(RUN_JSON, settings_text(fields, {"layers": {LAYER: [1]}}))
    stat = (folder / "t.tfrecords").stat()
    rng = np.random.default_rng(0)
    centers = rng.uniform(-10, 10, (CLUMPS, 2))
    widths, shares = rng.gamma(2, 0.35, CLUMPS), rng.dirichlet(np.ones(CLUMPS))
    sources, points = [], {}
    for number in range(-(-n // SLIDE_ROWS)):
        own = rng.choice(CLUMPS, SLIDE_ROWS, p=shares)
        xy = centers[own] + rng.normal(size=(SLIDE_ROWS, 2)) * widths[own, None]
        frame = frames[rng.integers(0, len(frames), SLIDE_ROWS)]
        columns = dict(
            zip(schema.REFERENCE.names, reference(SLIDE_ROWS).columns, strict=True)
        )
        columns |= {
            schema.SOURCE: np.full(SLIDE_ROWS, number, np.int32),
            schema.OFFSET: frame[:, 0],
            schema.LENGTH: frame[:, 1].astype(np.int32),
            schema.X: xy[:, 0].astype(np.float32),
            schema.Y: xy[:, 1].astype(np.float32),
            schema.KNN_DISTANCE: rng.random(SLIDE_ROWS).astype(np.float32),
        }
        slide = f"slide{number:05d}"
        points[slide] = pa.table(columns).cast(schema.POINTS)
        sources.append(
            Source(
                source=number,
                slide=slide,
                kind="tfrecords",
                uri=str(folder / "t.tfrecords"),
                stat=FileStat(size=stat.st_size, mtime_ns=stat.st_mtime_ns),
                n_indexed=SLIDE_ROWS,
                tile_px=TILE_PX,
            )
        )
    run.write_sources(sources_table(sources))
    write_map(run, points, unit=SLIDE_ROWS)


def child(folder, max_size):
    """Write the explorer here; what it cost on the last line."""
    from raylatent.config import ExploreConfig
    from raylatent.engine import explore
    from raylatent.map_job import run_explore
    from raylatent.stored.map_points import StoredPoints

    explore.ClusterPoints = StoredPoints  # the plain loop
    explore.spread = lambda work, calls, **_: (work(*call) for call in calls)
    out, started = Path(folder) / "page", time.monotonic()
    config = ExploreConfig(run=f"{folder}/run", out=str(out), max_size=max_size)
    _, facts = run_explore(config)
    size = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
    told = {
        "wall_s": time.monotonic() - started,
        "cpu_s": time.process_time(),
        "peak": peak_bytes("self"),
        "cells": facts["levels"][-1]["cells"],
        "size": size,
        "forecast": facts["bytes"]["forecast"],
    }
    print(json.dumps(told))


def main(argv=None):
    """Measure and print; the larger peak over the smaller one, and size over forecast."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--max-size", default="500MB")
    parser.add_argument("--ray", action="store_true", help="also on Ray")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.child:
        child(options.child, options.max_size)
        return None
    peaks, ratios = [], []
    print(
        f"{'rows':>12}{'cells':>10}{'wall s':>9}{'CPU s':>9}{'MiB':>8}{'MB':>9}"
        f"{'of forecast':>13}"
    )
    for rows in (options.rows, 10 * options.rows):
        with tempfile.TemporaryDirectory(prefix="raylatent-bench-") as scratch:
            write_rows(Path(scratch), rows)
            words = [__file__, "--child", scratch, "--max-size", options.max_size]
            done = subprocess.run(  # noqa: S603
                [sys.executable, *words], check=True, capture_output=True, text=True
            )
            found = json.loads(done.stdout.splitlines()[-1])
            peaks.append(found["peak"])
            ratios.append(found["size"] / found["forecast"])
            print(
                f"{rows:>12,}{found['cells']:>10,}{found['wall_s']:>9.1f}"
                f"{found['cpu_s']:>9.1f}{peaks[-1] / 2**20:>8.0f}"
                f"{found['size'] / 1e6:>9.1f}{ratios[-1]:>13.3f}",
                flush=True,
            )
            if options.ray:
                out = ("--out", f"{scratch}/by-ray", "--max-size", options.max_size)
                on_ray = measure(("explore", f"{scratch}/run", *out), scratch)
                print(
                    f"{'on Ray':>12}{'':>10}{on_ray['wall']:>9.1f}   MiB of the driver "
                    f"{on_ray['driver'] / 2**20:.0f}, of the largest worker "
                    f"{on_ray['worker'] / 2**20:.0f}",
                    flush=True,
                )
    print(f"larger peak over the smaller one: {peaks[1] / peaks[0]:.2f}")
    return peaks[1] / peaks[0], ratios


if __name__ == "__main__":
    main()
