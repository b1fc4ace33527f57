r"""How long the explorer's page takes: until it is ready, a frame while panning, a lasso.

    python tests/benchmarks/bench_page.py [--points 1000000] [--folder EXPLORER] [--turns 3]

Pages of 2,000 and of so many made points, or one that is there, in Debian's chromium
without WebGL, 1,300 x 900 px, from a disk as by a double click; the first also with the
processor slowed down four times. Medians over turns, in ms; a frame is the time between
two animation frames while a pointer drags the map, with pictures and with points.
"""

import argparse
import itertools
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))  # run as a script

VIEW = {"width": 1300, "height": 900}
WITHOUT_GPU = ["--disable-webgl", "--disable-3d-apis"]
STEPS = 60
POINTS_A_BLOCK = 65_536
LASSO = """async (n) => {
  const { frame } = raylatent.now;
  const ring = Array.from({ length: n }, (_, i) => {
    const [a, r] = [(2 * Math.PI * i) / n, frame.side * (i % 2 ? 0.45 : 0.3)];
    return [frame.x0 + frame.side / 2 + r * Math.cos(a),
      frame.y0 + frame.side / 2 + r * Math.sin(a)];
  });
  const start = performance.now();
  const told = await raylatent.select(ring);
  return [performance.now() - start, told.n];
}"""
COUNT = """() => {
  const times = (window.times = []);
  const next = (now) => { times.push(now); requestAnimationFrame(next); };
  requestAnimationFrame(next);
}"""


def made(where, points):
    """A folder of made points; the path of its page."""
    from tests.browser.made_folder import made_points, write_folder

    levels = 4 if points < 100_000 else 6
    write_folder(
        where, made_points(points), levels=levels, points_a_block=POINTS_A_BLOCK
    )
    return where


def opened(browser, folder, slowed=1):
    """A page that is ready, and how long that took in ms."""
    page = browser.new_context(viewport=VIEW).new_page()
    if slowed > 1:
        session = page.context.new_cdp_session(page)
        session.send("Emulation.setCPUThrottlingRate", {"rate": slowed})
    start = time.perf_counter()
    page.goto((folder / "index.html").as_uri())
    page.wait_for_selector('body[data-ready="1"]')
    return page, 1e3 * (time.perf_counter() - start)


def panned(page):
    """Times between frames in ms while the map is dragged about."""
    page.mouse.move(400, 400)
    page.mouse.down()
    page.evaluate(COUNT)
    for i in range(STEPS):
        page.mouse.move(400 + 5 * (i % 30), 400 + 3 * (i % 30))
    times = page.evaluate("window.times")
    page.mouse.up()
    return [b - a for a, b in itertools.pairwise(times)]


def measure(browser, folder, turns, slowed=1):
    """What one page takes: medians, and the 95th share of frames, by name."""
    found = {name: [] for name in ("ready", "pictures", "points", "lasso", "heap MiB")}
    for _ in range(turns):
        page, ready = opened(browser, folder, slowed)
        found["ready"].append(ready)
        page.wait_for_timeout(1_000)
        found["pictures"] += panned(page)
        took, n = page.evaluate(LASSO, 64)
        found["lasso"].append(took)
        page.locator("#clear").click()
        page.locator("#show-pictures").uncheck()
        page.locator("#show-points").check()
        page.wait_for_timeout(3_000)
        found["points"] += panned(page)
        heap = page.evaluate("performance.memory.usedJSHeapSize")
        found["heap MiB"].append(heap / 2**20)
        page.context.close()
    said = {name: statistics.median(values) for name, values in found.items()}
    for name in ("pictures", "points"):
        said[f"{name} 95 %"] = statistics.quantiles(found[name], n=20)[-1]
    return said | {"selected": n}


def main(argv=None):
    """Print a table; the median frame with points of the largest page, in ms."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--points", type=int, default=1_000_000)
    parser.add_argument(
        "--folder", type=Path, help="an explorer instead of made points"
    )
    parser.add_argument("--turns", type=int, default=3)
    args = parser.parse_args(argv)
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as scratch, sync_playwright() as playwright:
        small = made(Path(scratch) / "small", 2_000)
        large = args.folder or made(Path(scratch) / "large", args.points)
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=WITHOUT_GPU
        )
        for what, folder, slowed in (
            ("2,000 points", small, 1),
            ("2,000 points, slowed 4 times", small, 4),
            (f"{large.name}, {args.points:,} points", large, 1),
        ):
            said = measure(browser, folder, args.turns, slowed)
            print(f"{what}: " + ", ".join(f"{k} {v:,.0f}" for k, v in said.items()))
        browser.close()
    return said["points"]


if __name__ == "__main__":
    main()
