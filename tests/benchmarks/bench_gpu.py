r"""What of a GPU's speed an actor gets: its pipeline over the bare compiled forward pass.

    python tests/benchmarks/bench_gpu.py                     # one GPU
    python tests/benchmarks/bench_gpu.py --device cpu --small     # that it runs

Bare: `torch.compile` of the model alone, bfloat16 and channels last, over a batch that is
on the device already. The pipeline is an actor's: records read and checked, decoded by
processes, sent, run through the model as compiled for its layers, rows written as Parquet,
five units at once. Both in turns, wall time, medians. Models: ResNet-50 and ViT-L/16 at 224 px, random
weights. Needs about 16 cores for ResNet-50 on a large GPU: the seconds of threads that
read and decode, and of waiting for them, are told beside it.
"""

import argparse
import copy
import io
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[2]))  # run as a script
from tests.benchmarks.bench_activations import tissue

PX = 224
GOAL = 0.95
MODELS = {
    "resnet50": ("ResNet", {}, {"blocks": [1, 1, 1, 1], "width": 8}),
    "vit_l": ("ViT", {}, {"depth": 2, "dim": 64, "heads": 4}),
}
"""Class, arguments, and arguments of a small one."""


def write_model(folder, name, *, small):
    """A model folder."""
    folder.mkdir()
    shutil.copyfile(Path(__file__).with_name("nets.py"), folder / "bench_nets.py")
    factory, arguments, smaller = MODELS[name]
    spec = {"factory": f"bench_nets:{factory}", "weights": None, "tile_px": PX}
    spec |= {"kwargs": smaller if small else arguments, "mean": 0.5, "std": 0.25}
    (folder / "model.json").write_text(json.dumps(spec))


def write_units(folder, n_units, n_tiles):
    """As many units, each the tiles of one TFRecord, all of one content."""
    from PIL import Image

    from raylatent.source.record import TileRecord
    from raylatent.source.tfrecords import index_source, load_unit, unit_plans
    from raylatent.source.write import write_tfrecord

    folder.mkdir()
    picture, random = tissue(), np.random.default_rng(0)
    height, width = picture.shape[0] - PX, picture.shape[1] - PX
    records = []
    for i in range(n_tiles):
        y, x = random.integers(height), random.integers(width)
        jpeg = io.BytesIO()
        tile = Image.fromarray(picture[y : y + PX, x : x + PX])
        tile.save(jpeg, "JPEG", quality=85)
        records.append(TileRecord(jpeg.getvalue(), None, i, i))
    write_tfrecord(folder / "slide000.tfrecords", records)
    units = []
    for i in range(n_units):
        path = folder / f"slide{i:03d}.tfrecords"
        if i:
            os.link(folder / "slide000.tfrecords", path)
        source, index = index_source(path.stem, str(path), PX)
        units += [load_unit(p) for p in unit_plans(source, index, n_tiles)]
    return units


def bare_model(features, *, compiled):
    """The model alone, as fast as torch runs it on batches that are there."""
    model = copy.deepcopy(features.model).to(memory_format=torch.channels_last)
    forward = torch.compile(model, dynamic=False) if compiled else model
    shape = (features.batch_size, 3, PX, PX)
    batch = torch.randn(shape, device=features.device)
    batch = batch.contiguous(memory_format=torch.channels_last)
    kind, half = features.device.type, features.mixed_precision

    def run():
        with torch.inference_mode(), torch.autocast(kind, torch.bfloat16, enabled=half):
            return forward(batch)

    return run


def bare(run, features, n_tiles):
    """Tiles a second of the model alone."""
    passes = max(1, n_tiles // features.batch_size)
    started = time.perf_counter()
    for _ in range(passes):
        run()
    if features.device.type == "cuda":
        torch.cuda.synchronize()
    return passes * features.batch_size / (time.perf_counter() - started)


def pipeline(lane, units, threads, out, at_once):
    """Tiles a second of an actor, and its seconds by stage."""
    from raylatent.model.rows import RowOptions, unit_rows
    from raylatent.parts import part_name, write_part
    from raylatent.storage import Store

    store = Store(str(out))

    def work(unit):
        found = unit_rows(unit, lane, RowOptions(), threads)
        name = part_name("activations", unit.source.slide, unit.unit)
        write_part(store, name, found.rows, {})
        return len(found.rows), found.seconds

    n_tiles, seconds = 0, {}
    started, cpu = time.perf_counter(), time.process_time()
    with ThreadPoolExecutor(at_once) as pool:
        for n, stages in pool.map(work, units):
            n_tiles += n
            for stage, value in stages.items():
                seconds[stage] = seconds.get(stage, 0.0) + value
    wall_s = time.perf_counter() - started
    seconds["own CPU"] = time.process_time() - cpu
    return n_tiles / wall_s, {k: v / wall_s for k, v in seconds.items()}


def measure(name, options, scratch):
    """Print what one model gets; the ratio."""
    from raylatent.model.devices import feed_gpu, lane_of, set_threads
    from raylatent.model.features import Features
    from raylatent.tiles.decoders import Decoders
    from raylatent.tiles.stream import Threads

    write_model(scratch / name, name, small=options.small)
    features = Features(
        str(scratch / name),
        batch_size=options.batch_size,
        device=options.device,
        mixed_precision=options.device.startswith("cuda"),
    )
    run = bare_model(features, compiled=options.compile)
    lane = lane_of(features)
    if options.compile:
        features.compile()
    (feed_gpu if options.processes else set_threads)(options.threads)
    units = write_units(scratch / f"{name} tiles", options.units, options.unit_tiles)
    n_tiles = options.units * options.unit_tiles
    decoders = Decoders(options.threads) if options.processes else None
    threads = Threads(ThreadPoolExecutor(options.threads), options.threads, decoders)
    bare(run, features, 1)
    pipeline(lane, units[:1], threads, scratch / "out", 1)
    ratios = []
    for at_once in options.at_once:
        rates = {"bare": [], "pipeline": []}
        for _ in range(options.turns):
            rates["bare"].append(bare(run, features, n_tiles))
            rate, seconds = pipeline(lane, units, threads, scratch / "out", at_once)
            rates["pipeline"].append(rate)
        ratios.append(said(f"{name}, {at_once} units at once", rates, seconds))
    threads.pool.shutdown()
    if decoders is not None:
        decoders.close()
    return min(ratios)


def said(what, rates, seconds):
    """Print a ratio; it."""
    ratios = [b / a for a, b in zip(*rates.values(), strict=True)]
    ratio = statistics.median(ratios)
    parts = ", ".join(f"{stage} {share:.2f}" for stage, share in seconds.items())
    print(
        f"{what}: bare {statistics.median(rates['bare']):,.0f} tiles/s, pipeline "
        f"{statistics.median(rates['pipeline']):,.0f}: ratio {ratio:.3f} (goal on a GPU "
        f"{GOAL}; {min(ratios):.3f} to {max(ratios):.3f}); seconds by stage a second: {parts}"
    )
    return ratio


def main(argv=None):
    """Measure and print; the least ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true", help="small models, few tiles")
    parser.add_argument("--model", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--units", type=int)
    parser.add_argument("--unit-tiles", type=int)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--threads", type=int, default=min(16, os.cpu_count() or 1))
    parser.add_argument("--at-once", type=int, nargs="+", default=[5], help="units")
    parser.add_argument(
        "--processes", action=argparse.BooleanOptionalAction, help="that decode"
    )
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction)
    options = parser.parse_args(argv)
    small = options.small
    options.batch_size = options.batch_size or (16 if small else 256)
    options.units = options.units or (2 if small else 16)
    options.unit_tiles = options.unit_tiles or (128 if small else 2048)
    on_gpu = options.device.startswith("cuda")
    options.compile = on_gpu if options.compile is None else options.compile
    options.processes = on_gpu and options.processes is not False
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        sys.exit("torch sees no GPU here: --device cpu --small shows that this runs")
    what = torch.cuda.get_device_name() if options.device == "cuda" else options.device
    compiled = "compiled" if options.compile else "not compiled"
    cores = f"{os.cpu_count()} cores, {options.threads} threads"
    versions = f"torch {torch.__version__}"
    print(
        f"{what}, {cores}, {versions}, {compiled}, {options.batch_size} tiles at once"
    )
    with tempfile.TemporaryDirectory(prefix="raylatent-bench-") as folder:
        return min(measure(name, options, Path(folder)) for name in options.model)


if __name__ == "__main__":
    main()
