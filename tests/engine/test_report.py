"""What a report makes of the seconds that stages took."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from raylatent import schema
from raylatent.engine.report import RunReport, Tally, bound_by
from raylatent.engine.unit_actor import UnitResult, manifest, undone
from raylatent.model.layer_checks import constant_layers
from raylatent.source.protocol import Source
from raylatent.source.tfrecords import RecordUnit
from raylatent.storage import FileStat
from raylatent.tiles.threads import Clock


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


STAGES = ("read", "decode", "wait", "transfer", "forward", "write")
positive = st.floats(1e-3, 1e3)
spent = st.dictionaries(st.sampled_from(STAGES), positive, min_size=1)


@given(spent, positive)
def test_the_limit_does_not_depend_on_the_unit_of_time(took, factor):
    apart = (b - a for a, b in pairwise(sorted(took.values())))
    assume(min(apart, default=1.0) > 1e-6)  # rounding may turn equals
    scaled = {stage: value * factor for stage, value in took.items()}
    assert bound_by(scaled) == bound_by(took)


@given(spent, positive)
def test_the_limit_is_a_stage_that_took_time(took, wall):
    limit = bound_by({**took, "wall": wall, "rows": 1e9})
    assert limit in took
    if {"read", "decode"} & set(took):
        assert limit != "wait"
    if limit not in {"read", "decode"} and "wait" in took:
        others = {k: v for k, v in took.items() if k not in {"read", "decode"}}
        assert took[limit] == max(others.values())


def test_nothing_took_time():
    assert bound_by({}) is None
    assert bound_by({"wall": 3.0, "decode": 0.0}) is None


def test_rates_are_of_stages_that_took_time():
    found = report_of(decode=4.0, wait=1.0, transfer=0.0, wall=10.0).as_json()
    latest = found["this_invocation"]
    assert latest["tiles_per_s"] == 10.0
    assert latest["tiles_per_s_by_stage"] == {"decode": 25.0}
    assert latest["seconds_by_stage"] == {"decode": 4.0, "wait": 1.0, "transfer": 0.0}


def test_rates_are_of_one_core_or_one_gpu():
    """CPU seconds: threads also wait, for one another and for disks."""
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


def told(constants, *, rows=8, bad=0):
    """What an actor tells the driver of a unit."""
    stat = FileStat(size=1, mtime_ns=1)
    places = np.arange(rows + bad)
    unit = RecordUnit(
        source=Source(
            source=0,
            slide="s",
            kind="tfrecords",
            uri="s",
            stat=stat,
            n_indexed=rows + bad,
        ),
        unit=0,
        first=0,
        offsets=places,
        lengths=places,
    )
    result = UnitResult(
        rows=pa.table({"x": np.zeros(rows)}),
        quarantine=schema.QUARANTINE.empty_table()
        if not bad
        else pa.table({"x": np.zeros(bad)}),
        constants=constants,
    )
    return manifest(unit, result, Clock("write")).to_pylist()[0]


def test_layers_that_are_the_same_in_all_units_are_in_the_report():
    tally = Tally()
    tally.add(told({"a": (0.0, 0.0), "b": (1.0, 1.0)}))
    tally.add(told({}, rows=0, bad=3))  # a unit without a row says nothing
    tally.add(undone("s", 4, "the disk failed").to_pylist()[0])
    tally.add(told({"a": (0.0, 0.0)}))
    assert (tally.rows, tally.counts["tiles"]) == (16, 19)
    found = constant_layers(["a", "b"], tally.constants, tally.rows)
    report = replace(report_of(wall=1.0), constant=found).as_json()
    (said,) = report["this_invocation"]["constant_layers"]
    assert said.startswith("layer 'a' is zero in all 16 tiles")
    tally.add(told({}))
    assert not tally.constants
