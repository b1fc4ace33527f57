r"""Whether a run's memory grows with its tiles: peaks at 1x, 4x and 16x.

    python tests/benchmarks/bench_memory.py

Tiles are small pictures, the model a small one, so that many go through in minutes; units
and slides are as in a real run (500 tiles a slide, so that slides grow as well). For each
size `activations`, `map` and `mosaic` run in a process of their own. Peak resident memory
of the driver and of the largest worker is the kernel's (VmHWM); the object store's use is
looked at five times a second. The slope is that of the least squares line through the
sizes at which the verb had workers (a small mosaic has none), in bytes a tile.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

SLIDE_TILES = 500
TILE_PX = 16
SCALES = (1, 4, 16)
KINDS = ("driver", "worker", "object store")
EVERY_S = 0.2
MODEL = """
import torch

def build():
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 16, 4, stride=4), torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(16, 2),
    )
"""


def write_model(folder):
    """A small model; its factory makes its weights."""
    folder.mkdir()
    (folder / "small_net.py").write_text(MODEL)
    spec = {"factory": "small_net:build", "weights": None, "tile_px": TILE_PX}
    spec |= {"mean": 0.5, "std": 0.25, "classes": 2}
    (folder / "model.json").write_text(json.dumps(spec))


def write_slides(folder, n_slides):
    """Slides of noise, of eight different contents in turn."""
    from raylatent.source.record import TileRecord
    from raylatent.source.write import encode_tile, write_tfrecord

    folder.mkdir()
    random = np.random.default_rng(0)
    for i in range(n_slides):
        target = folder / f"slide{i:05d}.tfrecords"
        if i >= 8:
            shutil.copyfile(folder / f"slide{i % 8:05d}.tfrecords", target)
            continue
        shades = random.integers(0, 256, (SLIDE_TILES, 1, 1, 3))
        noise = random.integers(-40, 40, (SLIDE_TILES, TILE_PX, TILE_PX, 3))
        pixels = np.clip(shades + noise, 0, 255).astype(np.uint8)
        write_tfrecord(
            target,
            [
                TileRecord(encode_tile(tile, "jpg", 90), None, 8 * k, 8 * k)
                for k, tile in enumerate(pixels)
            ],
        )


def peak_bytes(pid):
    """A process' largest resident memory so far, 0 where it is gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    found = [line for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(found[0].split()[1]) * 1024 if found else 0


def worker_pids(mark):
    """Ray's Python workers of this run."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            ours = mark in (folder / "environ").read_bytes()
            command = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if ours and command.startswith(b"ray::"):
            yield int(folder.name)


class Peaks(threading.Thread):
    """Looks at workers and the object store until stopped."""

    def __init__(self):
        super().__init__(daemon=True)
        self.worker = self.store = 0
        self.stop = threading.Event()

    def run(self):
        import ray
        from ray._private.internal_api import node_stats

        mark = f"RAYLATENT_BENCH={os.environ['RAYLATENT_BENCH']}".encode()
        while not self.stop.wait(EVERY_S):
            self.worker = max([self.worker, *map(peak_bytes, worker_pids(mark))])
            if not ray.is_initialized():
                continue
            for node in ray.nodes():
                stats = node_stats(node["NodeManagerAddress"], node["NodeManagerPort"])
                used = stats.store_stats.object_store_bytes_used
                self.store = max(self.store, used)


def child(argv):
    """One verb in this process; its peaks on the last line."""
    from raylatent import cli

    peaks = Peaks()
    peaks.start()
    started = time.monotonic()
    code = cli.main(argv)
    wall_s = time.monotonic() - started
    peaks.stop.set()
    found = (peak_bytes(os.getpid()), peaks.worker, peaks.store)
    print(json.dumps({**dict(zip(KINDS, found, strict=True)), "wall": wall_s}))
    return code


def measure(argv, scratch):
    """Peaks of one verb in a process of its own."""
    mark = f"{scratch}{time.monotonic_ns()}"  # workers of the verb before may linger
    env = {**os.environ, "RAYLATENT_BENCH": mark, "RAY_AUTH_MODE": "disabled"}
    done = subprocess.run(  # noqa: S603
        [sys.executable, __file__, "--child", *map(str, argv)],
        capture_output=True,
        text=True,
        env=env,
        check=False,
    )
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def verbs(scratch, scale, actors):
    """The command lines of one size."""
    out = scratch / f"run{scale}"
    tfrecords, model = scratch / f"tfrecords{scale}", scratch / "model"
    yield (
        *("activations", "--tfrecords", tfrecords, "--model", model, "--out", out),
        *("--actors", actors),
    )
    yield ("map", "--out", out, "--sample", 2000, "--n-neighbors", 10)
    yield ("mosaic", "--out", out, "--num-tiles-x", 20, "--cell-px", 16)


def report(tiles, found):
    """Peaks and slopes as a table; the largest slope in bytes a tile."""
    largest = 0.0
    sizes = "".join(f"{n:>12,} tiles" for n in tiles)
    print(f"{'peak, MiB':<26}{sizes}   bytes a tile")
    for verb, peaks in found.items():
        spread = np.array([peak["worker"] > 0 for peak in peaks])
        for kind in KINDS:
            values = np.array([peak[kind] for peak in peaks])
            slope = np.polyfit(np.array(tiles)[spread], values[spread], 1)[0]
            largest = max(largest, slope)
            cells = "".join(f"{value / 2**20:>18,.1f}" for value in values)
            print(f"{verb + ', ' + kind:<26}{cells}{slope:>15.1f}")
        cells = "".join(f"{peak['wall']:>18,.1f}" for peak in peaks)
        print(f"{verb + ', seconds':<26}{cells}")
    return largest


def main(argv=None):
    """Measure and print; the largest slope."""
    given = list(sys.argv[1:] if argv is None else argv)
    if given[:1] == ["--child"]:
        return child(given[1:])
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--slides", type=int, default=64, help="slides at 1x")
    parser.add_argument("--actors", type=int, default=2)
    options = parser.parse_args(given)
    found = {}
    with tempfile.TemporaryDirectory(prefix="raylatent-bench-") as folder:
        scratch = Path(folder)
        write_model(scratch / "model")
        for scale in SCALES:
            write_slides(scratch / f"tfrecords{scale}", options.slides * scale)
            for words in verbs(scratch, scale, options.actors):
                peak = measure(words, scratch)
                found.setdefault(words[0], []).append(peak)
            shutil.rmtree(scratch / f"tfrecords{scale}")
    tiles = [options.slides * scale * SLIDE_TILES for scale in SCALES]
    largest = report(tiles, found)
    print(f"largest slope: {largest:.1f} bytes a tile")
    return largest


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        raise SystemExit(main())
    main()
