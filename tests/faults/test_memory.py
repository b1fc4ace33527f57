"""A run's memory does not grow with its tiles or slides."""

import runpy
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[1] / "benchmarks" / "bench_memory.py"
MOST_BYTES = 100  # a tile: driver, worker and object store each
# A large map's picture is a density instead of dots, which costs the driver some 25 MiB,
# once: over fewer slides than these that alone would be a slope of 100 bytes a tile.
SLIDES = 64


@pytest.mark.campaign
@pytest.mark.timeout(3600)
def test_peaks_at_1x_4x_16x(campaign, capsys):
    largest = runpy.run_path(str(BENCHMARK))["main"](["--slides", str(SLIDES)])
    said = capsys.readouterr().out
    with capsys.disabled():
        print(f"\n{said}")  # noqa: T201
    campaign.fault("memory: 1x, 4x, 16x tiles", 3)
    campaign.run(9)
    assert largest < MOST_BYTES
