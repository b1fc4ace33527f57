"""The benchmarks run; what they measure is theirs to say."""

import math
import runpy
import shutil
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.mark.slow
def test_slide_reads(capsys):
    benchmark = runpy.run_path(str(HERE / "bench_slide_reads.py"))
    argv = ["--side-px", "2048", "--turns", "1"]
    assert benchmark["main"](argv) > 0
    said = capsys.readouterr().out
    assert "ratio" in said
    assert "peak memory" in said


@pytest.mark.campaign
@pytest.mark.ray
def test_scale(capsys):
    benchmark = runpy.run_path(str(HERE / "bench_scale.py"))
    sizes = ("--rows", "1500", "3000", "--slides", "3", "--unit-tiles", "256")
    largest = benchmark["main"]([*sizes, "--sample", "200", "--neighbors", "5"])
    assert largest > 50 << 20
    said = capsys.readouterr().out
    for stage in ("sample", "fit", "place", "plot", "draw"):
        assert f"\n  {stage} " in said
    assert "\n  worker, MapWorker" in said
    assert "2.00x the rows" in said
    assert "largest peak" in said


@pytest.mark.slow
def test_placing(capsys):
    benchmark = runpy.run_path(str(HERE / "bench_place.py"))
    assert benchmark["main"](["--sample", "600", "--rows", "300", "--turns", "1"]) > 0
    assert "ratio" in capsys.readouterr().out


@pytest.mark.slow
def test_quality_of_placing(capsys):
    benchmark = runpy.run_path(str(HERE / "bench_quality.py"))
    mean, missed = benchmark["main"](
        ["--sample", "600", "--rows", "300", "--seeds", "2"]
    )
    assert mean > -0.02
    assert missed == 0
    assert "mean difference" in capsys.readouterr().out


@pytest.mark.campaign
def test_mosaic(capsys):
    benchmark = runpy.run_path(str(HERE / "bench_mosaic.py"))
    cpu_s, mib = benchmark["main"](["--tiles", "400", "--turns", "1"])
    assert cpu_s > 0
    assert mib > 0
    assert "cells of 100 px" in capsys.readouterr().out


@pytest.mark.campaign
@pytest.mark.timeout(600)
def test_activations(capsys):
    benchmark = runpy.run_path(str(HERE / "bench_activations.py"))
    argv = ["--model", "cheap", "--turns", "1", "--shrink", "32", "--simplejpeg"]
    # At this size a tile's cost is noise of either sign; that rows differ would raise.
    assert math.isfinite(benchmark["main"](argv))
    said = capsys.readouterr().out
    assert "cheap: ratio" in said
    for kind in ("driver", "actor"):
        assert f"{kind} " in said


@pytest.mark.slow
def test_gpu_on_a_cpu(capsys):
    benchmark = runpy.run_path(str(HERE / "bench_gpu.py"))
    argv = ["--device", "cpu", "--small", "--turns", "1", "--threads", "1"]
    assert benchmark["main"]([*argv, "--units", "2", "--unit-tiles", "40"]) > 0
    said = capsys.readouterr().out
    assert "resnet50, 5 units at once: bare" in said
    assert "vit_l, 5 units at once: bare" in said


@pytest.mark.campaign
def test_cells(capsys):
    benchmark = runpy.run_path(str(HERE / "bench_cells.py"))
    argv = ["--rows", "4000", "--slide-rows", "1000", "--plain"]
    assert benchmark["main"](argv) > 0
    said = capsys.readouterr().out
    for verb in ("counts", "nearest", "medoid"):
        assert said.count(f"\n{verb} ") == 3
    assert said.count("CPU s for each million rows more") == 3


def test_what_more_rows_cost_is_without_the_start():
    slope = runpy.run_path(str(HERE / "bench_cells.py"))["slope"]
    start = 7.0
    costs = [{"rows": n, "cpu_s": start + 3e-6 * n} for n in (10**6, 2 * 10**6)]
    assert slope(*costs) == pytest.approx(3.0)


@pytest.mark.campaign
@pytest.mark.ray
def test_start(capsys):
    benchmark = runpy.run_path(str(HERE / "bench_start.py"))
    assert benchmark["main"](["--turns", "1"]) > 0
    said = capsys.readouterr().out
    assert "actors: tiles" in said
    assert "\nall " in said


@pytest.mark.campaign
def test_page(capsys):
    pytest.importorskip("playwright.sync_api")
    if shutil.which("chromium") is None:
        pytest.skip("chromium is not installed")
    benchmark = runpy.run_path(str(HERE / "bench_page.py"))
    assert benchmark["main"](["--points", "20000", "--turns", "1"]) > 0
    assert "20,000 points: ready" in capsys.readouterr().out


@pytest.mark.campaign
def test_explore(capsys):
    benchmark = runpy.run_path(str(HERE / "bench_explore.py"))
    growth, ratios = benchmark["main"](["--rows", "5000", "--max-size", "60MB"])
    assert growth < 1.3
    assert ratios == pytest.approx([1, 1], abs=0.1)
    assert "larger peak over the smaller one" in capsys.readouterr().out
