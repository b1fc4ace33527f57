r"""Where the seconds of a small job go: `raylatent activations` of 800 tiles.

    python tests/benchmarks/bench_start.py [--turns 3] [--again]

One TFRecord of 800 JPEG tiles of 299 px, painted, and the small network of the tests, by
the command with a Ray of its own. A thread looks every 50 ms at what the command's main
thread is doing; of the time of actors, the report says how much was work on tiles. Medians
of some turns, in wall seconds. `--again` gives the same command once more, which has
nothing to do and starts no Ray.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))  # run as a script
from tests.small_data import make_model_folder, painted

N_TILES, TILE_PX = 800, 299
EVERY_S = 0.05
STAGES = {
    "prepare": "model: load, try, identify",
    "_wait": "Ray: wait for its start",
    "make_plan": "index and plan",
    "stream": "actors: start",
    "audit": "audit and report",
    "with_grids": "audit and report",
    "write_report": "audit and report",
    "put_run_manifest": "audit and report",
    "shutdown": "Ray: end",
    "_find_and_load": "imports",
}
"""By the outermost function of such a name that the main thread is in."""
TILES = "actors: tiles"
START, END, OTHER = "interpreter: start", "interpreter: end", "other"
ORDER = (START, *dict.fromkeys(STAGES.values()), TILES, OTHER, END)


def write_tfrecord(path):
    """A TFRecord of the tiles; 40 pictures in turn."""
    from raylatent.source import write
    from raylatent.source.record import TileRecord

    pictures = [
        write.encode_tile(painted(seed, TILE_PX, TILE_PX), "jpg", 90)
        for seed in range(40)
    ]
    records = [
        TileRecord(pictures[i % len(pictures)], path.stem, TILE_PX * i, 0)
        for i in range(N_TILES)
    ]
    path.parent.mkdir(parents=True)
    write.write_tfrecord(path, records)


def stage_of(frame):
    """What the innermost frame of a stack is part of."""
    found = OTHER
    while frame is not None:
        found = STAGES.get(frame.f_code.co_name, found)
        frame = frame.f_back
    return found


def child(began, seen, argv):
    """The command in this process, looked at; writes what was seen."""
    main, counts = threading.main_thread().ident, Counter()
    counts[START] = time.time() - began

    def look():
        while True:
            last = time.time()
            time.sleep(EVERY_S)
            took = time.time() - last
            counts[stage_of(sys._current_frames()[main])] += took
            part = seen.with_suffix(".part")  # the process may end at any time
            part.write_text(json.dumps({**counts, "until": last + took}))
            part.replace(seen)

    threading.Thread(target=look, daemon=True).start()
    from raylatent import cli

    sys.argv[1:] = argv
    cli.run()


def measured(folder, argv):
    """Seconds by stage of one command."""
    seen, began = folder / "seen.json", time.time()
    words = [sys.executable, __file__, "--child", str(began), str(seen), *argv]
    env = {**os.environ, "RAY_AUTH_MODE": "disabled"}
    subprocess.run(words, env=env, check=True, stderr=subprocess.DEVNULL)  # noqa: S603
    ended = time.time()
    found = json.loads(seen.read_text())
    found[END] = ended - found.pop("until")
    report = json.loads((folder / "run/report.json").read_text())["this_invocation"]
    stages = ("wait", "transfer", "forward", "write")
    found[TILES] = sum(report["seconds_by_stage"][stage] for stage in stages)
    found["actors: start"] = max(0.0, found.get("actors: start", 0.0) - found[TILES])
    return found | {"all": ended - began}


def main(argv=None):
    """Print the table; the median of all seconds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--again", action="store_true")
    given = parser.parse_args(argv)
    turns = []
    for _ in range(given.turns):
        with tempfile.TemporaryDirectory(prefix="rlb", dir="/tmp") as name:
            folder = Path(name)
            write_tfrecord(folder / "tiles/slide.tfrecords")
            model = make_model_folder(folder / "model", tile_px=TILE_PX)
            words = ["activations", "--tfrecords", folder / "tiles", "--model", model]
            words = [*map(str, words), "--out", str(folder / "run")]
            turns.append(measured(folder, words))
            if given.again:
                turns[-1] = measured(folder, words)
    print(f"{N_TILES} tiles of {TILE_PX} px, median of {given.turns} turns, seconds")
    for stage in (*ORDER, "all"):
        print(f"{stage:<28} {statistics.median(t.get(stage, 0) for t in turns):6.2f}")
    return statistics.median(turn["all"] for turn in turns)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(float(sys.argv[2]), Path(sys.argv[3]), sys.argv[4:])
    main()
