r"""What a mosaic's cells and a map's counts cost with N and 2 N rows: time and memory.

    python tests/benchmarks/bench_cells.py --rows 10000000

The rows (64 features of float16, 3 predictions, 25,000 a slide) are made, not computed.
For each of the two sizes a process of its own counts the map for its pictures, and
another one each chooses the cells of a 50 x 50 mosaic, `nearest` and `medoid`: on a local
Ray, or with `--plain` in one loop. Printed are CPU seconds (of the driver and of all
workers), and peak resident memory of the driver and of the largest worker; last, what
each million rows more cost of CPU, in which starting up is not.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))  # run as a script
from tests.benchmarks.bench_memory import peak_bytes, worker_pids  # noqa: E402

SLIDE_ROWS = 25_000
UNIT = 2048
WIDTH = 64
VERBS = ("counts", "nearest", "medoid")


def name_of(slide):
    """Of a number."""
    return f"slide{slide:05d}"


def label_of(slide):
    """One of eight."""
    return "ABCDEFGH"[slide % 8]


def write_rows(folder, first, n_slides, slide_rows):
    """A run with a map, slide by slide."""
    from tests.stored_maps import write_map, write_run

    for slide in range(first, first + n_slides):
        rows = {name_of(slide): slide_rows}
        run, points = write_run(folder, rows, width=WIDTH, unit=UNIT, seed=slide)
        write_map(run, points, unit=UNIT)


def cpu_s(pid):
    """CPU seconds that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def child(folder, verb, plain):
    """One verb in this process; what it cost on the last line."""
    from functools import partial

    from raylatent.engine.cells import ClusterPoints
    from raylatent.mapping.density import density
    from raylatent.montage.cells import choose_cells, finish_cells
    from raylatent.montage.points import Rule, labels_of_points
    from raylatent.run import RunDirectory
    from raylatent.storage import Store
    from raylatent.stored.map_pictures import _blocks
    from raylatent.stored.map_points import StoredPoints

    of_map = f"{folder}/maps/default"
    run = RunDirectory(folder)
    kind = StoredPoints if plain else partial(ClusterPoints, few_parts=0)
    points = kind(of_map, run)
    labels = {slide: label_of(int(slide[5:])) for slide in points.slides}
    before, started = cpu_s("self"), time.monotonic()
    if verb == "counts":
        n = int(density(_blocks(Store(of_map), labels)).counts.sum())
    else:
        parts = points.labeled(partial(labels_of_points, labels))
        chosen = choose_cells(parts, "square", 50, Rule(select=verb))
        n = int(finish_cells(chosen.grid, chosen.cells)["n"].to_numpy().sum())
    wall = time.monotonic() - started
    mark = f"RAYLATENT_BENCH={os.environ['RAYLATENT_BENCH']}".encode()
    workers = list(worker_pids(mark))
    cost = {
        "rows": n,
        "cpu_s": cpu_s("self") - before + sum(map(cpu_s, workers)),
        "wall_s": wall,
        "driver": peak_bytes(os.getpid()) / 2**20,
        "worker": max(map(peak_bytes, workers), default=0) / 2**20,
    }
    print(json.dumps(cost))


def measure(folder, verb, *, plain):
    """What a verb costs in a process of its own."""
    mark = f"cells{time.monotonic_ns()}"
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    env = {**os.environ, "RAYLATENT_BENCH": mark, "PYTHONPATH": paths}
    env["RAY_AUTH_MODE"] = "disabled"
    words = [str(folder), "--child", verb, *(["--plain"] if plain else [])]
    done = subprocess.run(  # noqa: S603
        [sys.executable, __file__, "--folder", *words],
        capture_output=True,
        text=True,
        env=env,
        check=False,
    )
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def slope(less, more):
    """CPU seconds of a million rows, by the costs of two sizes: start-up is in both."""
    rows = more["rows"] - less["rows"]
    return 1e6 * (more["cpu_s"] - less["cpu_s"]) / rows


def main(argv=None):
    """Measure and print; peak MiB of any process with 2 N rows over that with N."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000, help="N")
    parser.add_argument("--slide-rows", type=int, default=SLIDE_ROWS)
    parser.add_argument("--plain", action="store_true", help="one loop, without Ray")
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    parser.add_argument("--child", choices=VERBS, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.child:
        child(options.folder, options.child, options.plain)
        return None
    n_slides = max(1, options.rows // options.slide_rows)
    found = {}
    with tempfile.TemporaryDirectory(prefix="raylatent-bench-") as scratch:
        for times in (1, 2):
            first = (times - 1) * n_slides
            write_rows(f"{scratch}/run", first, n_slides, options.slide_rows)
            for verb in VERBS:
                cost = measure(f"{scratch}/run", verb, plain=options.plain)
                found.setdefault(verb, []).append(cost)
    print(
        f"{'':<9}{'rows':>12}{'CPU s':>9}{'wall s':>9}{'driver MiB':>12}{'worker MiB':>12}"
    )
    ratio = 0.0
    for verb, costs in found.items():
        for cost in costs:
            print(
                f"{verb:<9}{cost['rows']:>12,}{cost['cpu_s']:>9.1f}{cost['wall_s']:>9.1f}"
                f"{cost['driver']:>12.0f}{cost['worker']:>12.0f}"
            )
        peaks = [max(cost["driver"], cost["worker"]) for cost in costs]
        ratio = max(ratio, peaks[1] / peaks[0])
        print(f"{verb:<9}{slope(*costs):>21.2f} CPU s for each million rows more")
    print(f"largest growth of a peak: {ratio:.2f}")
    return ratio


if __name__ == "__main__":
    main()
