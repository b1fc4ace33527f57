"""What a report makes of the seconds that stages took."""

from dataclasses import replace

import pytest

from raylatent.engine.report import RunReport


def report_of(**seconds):
    return RunReport(
        run="run", slides=[], removed=[], counts={"tiles": 100}, seconds=seconds
    )


@pytest.mark.parametrize(
    ("seconds", "bound"),
    [
        # The model waited for pixels, and they were decoded more slowly than read.
        ({"read": 1, "decode": 8, "wait": 3, "forward": 2, "write": 1}, "decode"),
        ({"read": 9, "decode": 8, "wait": 3, "forward": 2, "write": 1}, "read"),
        # Eight seconds of decoding by many threads held nobody up.
        ({"read": 1, "decode": 8, "wait": 1, "forward": 2, "write": 1}, "forward"),
        ({"read": 1, "decode": 8, "wait": 1, "transfer": 4, "forward": 2}, "transfer"),
        ({"decode": 3, "write": 4, "wall": 9}, "write"),  # no model
        ({"decode": 0, "wall": 9}, None),  # nothing was left to do
    ],
)
def test_what_bound_a_run(seconds, bound):
    assert report_of(**seconds).bound_by == bound


def test_rates_are_of_stages_that_took_time():
    found = report_of(decode=4.0, wait=1.0, transfer=0.0, wall=10.0).as_json()
    latest = found["this_invocation"]
    assert latest["tiles_per_s"] == 10.0
    assert latest["tiles_per_s_by_stage"] == {"decode": 25.0}
    assert latest["seconds_by_stage"] == {"decode": 4.0, "wait": 1.0, "transfer": 0.0}


def test_rates_are_of_one_core_or_one_gpu():
    """CPU seconds, as a benchmark's: threads also wait, for one another and for disks."""
    seconds = {"read": 1.0, "decode": 4.0, "wait": 1.0, "forward": 2.0, "wall": 9.0}
    cpu = {"read": 0.0, "decode": 1.0, "write": 0.5}

    def latest(**more):
        report = replace(report_of(**seconds), **more)
        return report.as_json()["this_invocation"]

    assert "tiles_per_s_by_core_or_gpu" not in latest()
    rates = latest(cpu=cpu)["tiles_per_s_by_core_or_gpu"]
    assert rates == {
        "decode": {"tiles_per_s": 100.0, "per": "core"},
        "write": {"tiles_per_s": 200.0, "per": "core"},
    }
    rates = latest(cpu=cpu, gpus=0.5)["tiles_per_s_by_core_or_gpu"]
    assert rates["forward"] == {"tiles_per_s": 100.0, "per": "gpu"}
    assert rates["decode"]["per"] == "core"
    assert latest(cpu=cpu)["cpu_seconds_by_stage"] == cpu
