r"""The CPU seconds that a tile costs `raylatent activations`, over the plainest loop's.

    python tests/benchmarks/bench_activations.py [--model cheap lite0]

The plain loop reads TFRecords, checks both checksums of a record, decodes it with Pillow,
runs the same model on the same number of tiles at once without gradients and writes the
same rows as Parquet, in one process. The job is the command with a Ray of its own, one
actor. Both have as many cores and threads: one, since threads that wait for others burn
CPU. CPU seconds, user and system, are those of all processes; a tile's are the slope
between two numbers of tiles, so that what starting costs is out. Job and loop run in
turns, medians count. Rows are compared.

Models: `cheap`, one strided convolution and pooling to 64 features, and `lite0`,
EfficientNet-Lite0 (extra `demo`). Tiles are JPEG of 299 px: tissue where there is some in
`$RAYLATENT_TEST_DATA`, else scikit-image's. `--simplejpeg` measures the loop with
simplejpeg in Pillow's place as well, by which the job decodes.
"""

import argparse
import io
import json
import os
import shutil
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))  # run as a script
from tests.benchmarks.plain_loop import BATCH, loop, refuse_other_rows
from tests.benchmarks.processes import cost_of

TILE_PX = 299
QUALITY = 85
SIZES = {"cheap": (2048, 1, 6), "lite0": (256, 1, 5)}
"""Tiles of a TFRecord, and the two numbers of TFRecords."""
GOALS = {"cheap": 1.15, "lite0": 1.05}
WAYS = ("job", "loop", "loop, simplejpeg")
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
NET = """
import torch

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = torch.nn.Conv2d(3, 64, 8, stride=16)
        self.pool = torch.nn.AdaptiveAvgPool2d(1)
        self.head = torch.nn.Linear(64, 2)

    def features(self, batch):
        return self.pool(self.conv(batch).relu()).flatten(1)

    def forward(self, batch):
        return self.head(self.features(batch))
"""


def tissue():
    """A large picture of tissue, (h, w, 3)."""
    folder = Path(os.environ.get("RAYLATENT_TEST_DATA", "../shared"))
    slide = folder / "data/slides/CMU-1-Small-Region.svs"
    if slide.is_file():
        import openslide

        with openslide.OpenSlide(slide) as found:
            region = found.read_region((0, 0), 0, found.dimensions)
            return np.asarray(region.convert("RGB"))
    from skimage.data import immunohistochemistry

    return np.asarray(immunohistochemistry())


def write_tfrecords(folder, n_files, n_tiles):
    """As many TFRecords of as many tiles; four contents in turn."""
    from PIL import Image

    from raylatent.source.record import TileRecord
    from raylatent.source.write import write_tfrecord

    folder.mkdir()
    picture, random = tissue(), np.random.default_rng(0)
    height, width = picture.shape[0] - TILE_PX, picture.shape[1] - TILE_PX
    for i in range(n_files):
        path = folder / f"slide{i:03d}.tfrecords"
        if i >= 4:
            os.link(folder / f"slide{i % 4:03d}.tfrecords", path)
            continue
        records = []
        for k in range(n_tiles):
            y, x = random.integers(height), random.integers(width)
            jpeg = io.BytesIO()
            tile = Image.fromarray(picture[y : y + TILE_PX, x : x + TILE_PX])
            tile.save(jpeg, "JPEG", quality=QUALITY)
            records.append(TileRecord(jpeg.getvalue(), path.stem, int(x), k))
        write_tfrecord(path, records)


def write_model(kind, folder):
    """A model folder."""
    folder.mkdir()
    spec = {"mean": MEAN, "std": STD, "tile_px": TILE_PX, "weights": None}
    if kind == "cheap":
        (folder / "bench_net.py").write_text(NET)
        spec["factory"] = "bench_net:Net"
    else:
        from raylatent.demo import _write_model
        from raylatent.storage.store import Store

        _write_model(Store(folder))
        spec |= json.loads((folder / "model.json").read_text()) | {"tile_px": TILE_PX}
    (folder / "model.json").write_text(json.dumps(spec))


def child(words):
    """One way, in this process."""
    kind, way, folder, tfrecords, out, threads = words
    folder, out = Path(folder), Path(out)
    cores = sorted(os.sched_getaffinity(0))[-int(threads) :]
    os.sched_setaffinity(
        0, cores
    )  # Ray has as many CPUs then, an actor as many threads
    if way == "job":
        from raylatent import cli

        argv = ["activations", "--tfrecords", tfrecords, "--model", folder]
        argv += ["--out", out, "--batch-size", BATCH, "--no-preds"]
        argv += ["--actors", 1]
        return cli.main([str(word) for word in argv])
    paths = sorted(Path(tfrecords).glob("*.tfrecords"))
    loop(kind, folder, paths, int(threads), out, simplejpeg="simple" in way)
    return 0


def measure(kind, ways, options, scratch):
    """Seconds a tile of each way, one value a turn, and the last costs."""
    threads = options.threads
    n_tiles, *sizes = SIZES[kind]
    n_tiles //= options.shrink
    model = scratch / "model"
    write_model(kind, model)
    for size in sizes:
        write_tfrecords(scratch / f"{size}", size, n_tiles)
    slopes, last = {way: [] for way in ways}, {}
    for turn in range(options.turns):
        seconds = {way: [] for way in ways}
        for size in sizes:
            for way in ways:
                out = scratch / "out" / way.replace(", ", "-")
                words = (kind, way, model, scratch / f"{size}", out, threads)
                last[way] = cost_of([__file__, "--child", *words])
                seconds[way].append(last[way].cpu_s)
            refuse_other_rows(scratch / "out/job", scratch / "out/loop")
            shutil.rmtree(scratch / "out")
        for way, (few, many) in seconds.items():
            slopes[way].append((many - few) / (n_tiles * (sizes[1] - sizes[0])))
        job, plain = slopes["job"][-1], slopes["loop"][-1]
        print(f"turn {turn + 1}: {job * 1e6:.0f} / {plain * 1e6:.0f}", flush=True)
    return slopes, last


def report(kind, slopes, last):
    """Print medians and ratios; the ratio that has a goal."""
    for way, values in slopes.items():
        spread = ", ".join(f"{value * 1e6:.0f}" for value in sorted(values))
        ratios = [a / b for a, b in zip(values, slopes["loop"], strict=True)]
        peaks = ", ".join(
            f"{name} {peak >> 20}" for name, peak in sorted(last[way].peaks.items())
        )
        print(
            f"{kind}, {way:<17} {statistics.median(values) * 1e6:8.0f} us a tile, "
            f"{statistics.median(ratios):.3f}x of the loop ({spread}); peak MiB: {peaks}"
        )
    ratios = zip(slopes["job"], slopes["loop"], strict=True)
    ratio = statistics.median(a / b for a, b in ratios)
    print(f"{kind}: ratio {ratio:.3f}, goal at most {GOALS[kind]}")
    return ratio


def main(argv=None):
    """Measure and print; the largest ratio over its goal."""
    given = list(sys.argv[1:] if argv is None else argv)
    if given[:1] == ["--child"]:
        return child(given[1:])
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1, help="of loop and actors")
    parser.add_argument("--simplejpeg", action="store_true", help="a loop with it, too")
    parser.add_argument("--shrink", type=int, default=1, help="sizes by this")
    options = parser.parse_args(given)
    shares = []
    for kind in options.model:
        ways = WAYS if options.simplejpeg else WAYS[:2]
        with tempfile.TemporaryDirectory(prefix="raylatent-bench-") as folder:
            found = measure(kind, ways, options, Path(folder))
        shares.append(report(kind, *found) / GOALS[kind])
    return max(shares)


if __name__ == "__main__":
    code = main()
    if sys.argv[1:2] == ["--child"]:
        raise SystemExit(code)
