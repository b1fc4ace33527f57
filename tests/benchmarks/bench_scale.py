r"""Map and mosaic of millions of rows: memory of every process, time of every stage.

    python tests/benchmarks/bench_scale.py --rows 10000000 20000000 --slides 400

Rows of 64 float16 activations are generated and written as a finished run. Then
`raylatent map` places and plots all of them, `raylatent mosaic` chooses and draws the
cells, each in a process of its own on a local Ray. Ten times a second all processes are
looked at: peak resident memory is the kernel's (VmHWM, shared pages of the object store
included), of which `private` is not shared with any other process (RssAnon). CPU seconds
are those of all processes, a stage's what they grew by between its beginning and its end.
"""

import argparse
import importlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from itertools import pairwise
from pathlib import Path

EVERY_S = 0.1
MARK = "RAYLATENT_BENCH"
TICKS = os.sysconf("SC_CLK_TCK")
# What is timed of each verb, as the driver calls it.
STAGES = {
    "map": {
        "list": "raylatent.engine.map_building._parts_of",
        "sample": "raylatent.engine.map_building.sample_rows",
        "fit": "raylatent.engine.map_building.fit_map",
        "quality": "raylatent.engine.map_building.measured",
        "place": "raylatent.engine.map_building.place_rows",
        "plot": "raylatent.stored.map_pictures.save_stored_map",
    },
    "mosaic": {
        "check": "raylatent.stored.map_points.StoredPoints.check_rows",
        "draw": "raylatent.mosaic.Mosaic.export",
    },
}


def timed(path, spans, name):
    """Have a function note when it begins and ends."""
    owner, _, attribute = path.rpartition(".")
    try:
        holder = importlib.import_module(owner)
    except ModuleNotFoundError:
        module, _, kind = owner.rpartition(".")
        holder = getattr(importlib.import_module(module), kind)
    inner = getattr(holder, attribute)

    def call(*args, **kwargs):
        started = time.monotonic()
        try:
            return inner(*args, **kwargs)
        finally:
            spans.append((name, started, time.monotonic()))

    setattr(holder, attribute, call)


def child(argv):
    """One verb in this process; the spans of its stages on the last line."""
    from raylatent import cli

    spans = []
    for name, path in STAGES[argv[0]].items():
        timed(path, spans, name)
    started = time.monotonic()
    code = cli.main(argv)
    spans.append((argv[0], started, time.monotonic()))
    print(json.dumps(spans))
    return code


class Watch(threading.Thread):
    """Memory and CPU seconds of a command's processes, also of those that end."""

    def __init__(self, mark, driver):
        super().__init__(daemon=True)
        self._mark, self._driver = f"{MARK}={mark}\0".encode(), driver
        self._ours, self._kinds, self._cpu = {}, {}, {}
        self.peaks = defaultdict(lambda: [0, 0])
        self.samples = []
        self.stop = threading.Event()

    def run(self):
        while not self.stop.wait(EVERY_S):
            for folder in Path("/proc").glob("[0-9]*"):
                try:
                    self._look(folder)
                except (OSError, IndexError):  # it has ended meanwhile
                    continue
            by_kind = defaultdict(float)
            for key, seconds in self._cpu.items():
                by_kind[self._kinds[key]] += seconds
            self.samples.append((time.monotonic(), dict(by_kind)))

    def _look(self, folder):
        stat = (folder / "stat").read_text().rpartition(")")[2].split()
        key = (folder.name, stat[19])  # with its start: numbers come again
        if key not in self._ours:
            environ = (folder / "environ").read_bytes()
            if not environ and stat[0] != "Z":  # it is about to begin
                return
            self._ours[key] = self._mark in environ
        if not self._ours[key] or stat[0] == "Z":
            return
        kind = self._kinds[key] = self._kind(folder, key)
        self._cpu[key] = (int(stat[11]) + int(stat[12])) / TICKS
        lines = (line.split() for line in (folder / "status").read_text().splitlines())
        status = {words[0]: words[1] for words in lines if len(words) > 1}
        for i, name in enumerate(("VmHWM:", "RssAnon:")):
            found = int(status.get(name, 0)) * 1024
            self.peaks[kind][i] = max(self.peaks[kind][i], found)

    def _kind(self, folder, key):
        if int(key[0]) == self._driver:
            return "driver"
        words = (folder / "cmdline").read_bytes().split(b"\0")
        name = words[0].decode("utf-8", "replace").rsplit("/", 1)[-1]
        if not name.startswith("ray::"):
            return self._kinds.get(key) or "ray itself"
        name = name.removeprefix("ray::").partition("(")[0].partition(".")[0]
        idle = name.startswith("IDLE")
        return self._kinds.get(key, "worker, idle") if idle else f"worker, {name}"

    def cpu_s(self, start, end, kind=None):
        """CPU seconds of all processes, or those of a kind, between two moments."""

        def until(moment):
            before = [found for at, found in self.samples if at <= moment]
            last = before[-1] if before else {}
            return last.get(kind, 0.0) if kind else sum(last.values())

        return until(end) - until(start)


def measure(argv):
    """Run a verb: spans of its stages, and the watch that looked at it."""
    mark = f"{os.getpid()}-{time.monotonic_ns()}"
    env = {**os.environ, MARK: mark, "RAY_AUTH_MODE": "disabled"}
    with tempfile.TemporaryFile("w+") as output:
        found = subprocess.Popen(  # noqa: S603
            [sys.executable, __file__, "--child", *map(str, argv)],
            stdout=output,
            env=env,
        )
        watch = Watch(mark, found.pid)
        watch.start()
        code = found.wait()
        watch.stop.set()
        watch.join()
        output.seek(0)
        said = output.read()
    if code:
        sys.exit(f"{argv[0]} failed: {said}")
    return json.loads(said.splitlines()[-1]), watch


def told(n_rows, verb, spans, watch):
    """Print a verb's stages and processes; its wall seconds and largest peak."""
    print(f"\n{verb}, {n_rows:,} rows")
    print(f"  {'stage':<12}{'wall s':>9}{'CPU s':>9}{'driver':>9}{'rows/s a core':>16}")
    for name, start, end in sorted(spans, key=lambda span: span[1]):
        cpu_s, own_s = watch.cpu_s(start, end), watch.cpu_s(start, end, "driver")
        rate = f"{n_rows / cpu_s:,.0f}" if cpu_s >= 1 else ""
        label = "all of it" if name == verb else name
        print(f"  {label:<12}{end - start:>9.1f}{cpu_s:>9.1f}{own_s:>9.1f}{rate:>16}")
    print(f"  {'process':<32}{'peak MiB':>9}{'private':>9}")
    for kind, (peak, private) in sorted(watch.peaks.items()):
        print(f"  {kind:<32}{peak / 2**20:>9,.0f}{private / 2**20:>9,.0f}")
    sizes = {k: tuple(peaks) for k, peaks in watch.peaks.items()}
    start, end = next(span[1:] for span in spans if span[0] == verb)
    return {"wall": end - start, "cpu": watch.cpu_s(start, end), "peaks": sizes}


def verbs(folder, options):
    """The command lines."""
    labels = ("--annotations", folder / "labels.csv", "--label", "site")
    run = folder / "run"
    sample = ("--sample", options.sample, "--n-neighbors", options.neighbors)
    yield ("map", "--out", run, *sample, *labels)
    yield ("mosaic", "--out", run, *labels)


def compare(found):
    """Print how memory and time grow from each size to the next."""
    sizes = sorted(found)
    for few, many in pairwise(sizes):
        for verb, more in found[many].items():
            less = found[few][verb]
            grown = [
                more["peaks"][kind][0] / peaks[0]
                for kind, peaks in less["peaks"].items()
                if kind in more["peaks"] and kind != "ray itself" and peaks[0]
            ]
            times = more["cpu"] / less["cpu"]
            print(
                f"{verb}: {many / few:.2f}x the rows take {times:.2f}x the CPU seconds; "
                f"the largest growth of a process is {max(grown):.2f}x"
            )


def main(argv=None):
    """Measure and print; the largest peak of our processes in bytes."""
    given = list(sys.argv[1:] if argv is None else argv)
    if given[:1] == ["--child"]:
        return child(given[1:])
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000_000])
    parser.add_argument("--slides", type=int, default=400)
    parser.add_argument("--unit-tiles", type=int, default=2048)
    parser.add_argument("--sample", type=int, default=20_000)
    parser.add_argument("--neighbors", type=int, default=50)
    parser.add_argument("--scratch", help="where the run is made (removed at the end)")
    options = parser.parse_args(given)
    from tests.benchmarks.generated_run import write_run

    found = {}
    for n_rows in options.rows:
        folder = Path(tempfile.mkdtemp(prefix="raylatent-bench-", dir=options.scratch))
        try:
            started = time.monotonic()
            write_run(folder / "made", n_rows, options.slides, options.unit_tiles)
            print(f"{n_rows:,} rows made in {time.monotonic() - started:.0f} s")
            found[n_rows] = {
                words[0]: told(n_rows, words[0], *measure(words))
                for words in verbs(folder / "made", options)
            }
            sys.stdout.flush()
        finally:
            shutil.rmtree(folder)
    print()
    compare(found)
    peaks = {
        f"{kind} of {verb}, {n_rows:,} rows": peak
        for n_rows, size in found.items()
        for verb, of_verb in size.items()
        for kind, (peak, _) in of_verb["peaks"].items()
        if kind != "ray itself"
    }
    largest = max(peaks, key=peaks.__getitem__)
    print(f"largest peak: {peaks[largest] / 2**20:,.0f} MiB ({largest})")
    return peaks[largest]


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        raise SystemExit(main())
    sys.path.insert(0, str(Path(__file__).parents[2]))
    main()
