"""What becomes of slides: bad tiles, files that are lost, the report, the order."""

import json
import os
import shutil
from dataclasses import replace

import pytest
import torch

from raylatent import schema
from raylatent.engine import activations
from raylatent.engine.actors import DriverModel, check_model
from raylatent.errors import IncompleteError, ModelError
from raylatent.model.features import Features
from raylatent.run import RunDirectory

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("in_process")]


def test_the_report_says_what_became_of_each_slide(
    tmp_path, source, tiles, compute, write_slide
):
    out = tmp_path / "run"
    write_slide(source, "b", tiles[:30], bad={7})
    report = compute(out, [source])
    assert not report.failed
    found = json.loads((out / "report.json").read_text())
    assert found["slides"] == 3
    assert found["tiles"] == 99
    assert (found["rows"], found["quarantined"]) == (98, 1)
    assert list(found["reasons"].values()) == [1]
    assert found["failed"] == {}
    by_slide = {row["slide"]: row for row in found["by_slide"]}
    assert by_slide["b"]["rows"] == 29
    assert by_slide["b"]["quarantined"] == 1
    latest = found["this_invocation"]
    assert latest["tiles"] == 99
    assert latest["tiles_per_s"] > 0
    assert latest["bound_by"] in {"read", "decode", "forward", "write"}
    stages = {"read", "decode", "forward", "write"}
    assert set(latest["tiles_per_s_by_stage"]) == stages
    assert latest["seconds_by_stage"]["wait"] > 0


def test_too_many_bad_tiles_fail_the_slide_and_nothing_else(
    tmp_path, source, tiles, compute, write_slide
):
    out = tmp_path / "run"
    write_slide(source, "a", tiles, bad=set(range(11)))
    write_slide(source, "b", tiles[:30], bad=set(range(10)))
    report = compute(out, [source])
    (failed,) = report.failed
    assert failed.slide == "a"
    assert "11 of 64 tiles are bad" in failed.error
    assert report.n_rows == 53 + 20 + 5
    # They are in the run: nothing is done again, and it still fails.
    again = compute(out, [source])
    assert again.counts["tiles"] == 0
    assert [slide.slide for slide in again.failed] == ["a"]
    assert not compute(out, [source], max_bad_fraction=0.2).failed


def test_a_lost_quarantine_is_made_again(
    tmp_path, source, tiles, compute, write_slide, assert_same
):
    out = tmp_path / "run"
    write_slide(source, "a", tiles, bad={25})
    compute(out, [source])
    (out / "quarantine/slide=a/000001.parquet").unlink()
    report = compute(out, [source])
    assert report.counts["tiles"] == 20
    assert not report.failed
    assert_same(out, [source])


@pytest.mark.parametrize("harm", ["deleted", "rewritten"])
def test_a_source_lost_between_plan_and_read_is_left_undone(
    tmp_path, source, compute, assert_same, monkeypatch, harm
):
    out = tmp_path / "run"
    saved = shutil.copytree(source, tmp_path / "saved")
    make_plan = activations.make_plan

    def plan_then_harm(*arguments):
        plan = make_plan(*arguments)
        if harm == "deleted":
            (source / "b.tfrecords").unlink()
        else:
            os.utime(source / "b.tfrecords", ns=(1, 1))
        return plan

    with monkeypatch.context() as patch:
        patch.setattr(activations, "make_plan", plan_then_harm)
        report = compute(out, [source])
    assert [slide.slide for slide in report.failed] == ["b"]
    assert str(source / "b.tfrecords") in report.failed[0].error
    assert report.n_rows == 64 + 5
    shutil.copy2(saved / "b.tfrecords", source)
    again = compute(out, [source])
    assert again.counts["tiles"] == 30
    assert not again.failed
    assert_same(out, [source])


def test_a_slide_that_breaks_keeps_its_rows(tmp_path, source, compute, parts_of):
    out = tmp_path / "run"
    compute(out, [source])
    before = parts_of(out)
    content = (source / "b.tfrecords").read_bytes()
    stat = (source / "b.tfrecords").stat()
    (source / "b.tfrecords").write_bytes(b"rubbish" * 10)
    report = compute(out, [source])
    assert [slide.slide for slide in report.failed] == ["b"]
    assert parts_of(out) == before
    (source / "b.tfrecords").write_bytes(content)
    os.utime(source / "b.tfrecords", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    report = compute(out, [source])
    assert not report.failed
    assert report.counts["tiles"] == 0
    assert parts_of(out) == before


@pytest.mark.parametrize("plan_lost", [False, True])
def test_a_slide_that_comes_back_broken_keeps_its_rows(
    tmp_path, source, compute, parts_of, plan_lost
):
    out, file = tmp_path / "run", source / "a.tfrecords"
    compute(out, [source])
    before = parts_of(out)
    away = file.rename(tmp_path / "a.tfrecords")
    compute(out, [source])
    if plan_lost:
        (out / "sources.parquet").write_bytes(b"broken")
    file.write_bytes(b"no TFRecord at all, for now")
    assert [slide.slide for slide in compute(out, [source]).failed] == ["a"]
    file.unlink()
    away.rename(file)
    report = compute(out, [source])
    assert not report.failed
    assert report.counts["tiles"] == 0
    assert parts_of(out) == before


def test_a_run_without_tiles_fails(tmp_path, source, compute, tiles, write_slide):
    for slide in "abc":
        write_slide(source, slide, [])
    with pytest.raises(IncompleteError, match="no tile"):
        compute(tmp_path / "run", [source])
    assert not (tmp_path / "run/claim.json").exists()


def test_units_in_any_order_give_the_same_rows(
    tmp_path, source, compute, assert_same, monkeypatch
):
    out = tmp_path / "run"
    make_plan = activations.make_plan

    def backwards(*arguments):
        plan = make_plan(*arguments)
        return replace(plan, units=plan.units[::-1])

    monkeypatch.setattr(activations, "make_plan", backwards)
    compute(out, [source])
    assert_same(out, [source])


def test_a_row_does_not_depend_on_the_bad_tile_beside_it(
    tmp_path, tiles, compute, write_slide, small_model, plain_loop
):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    whole.mkdir()
    broken.mkdir()
    write_slide(whole, "s", tiles)
    write_slide(broken, "s", tiles, bad={33})
    compute(tmp_path / "run", [broken])
    expected = plain_loop(small_model, [whole], unit_tiles=20)["s"][0]
    found = RunDirectory.open(str(tmp_path / "run")).read_rows("s")
    kept = [i for i in range(64) if i != 33]
    assert found[schema.TILE_INDEX].to_pylist() == kept
    for column in ("postconv", schema.PREDICTIONS):
        assert (
            found[column]
            .combine_chunks()
            .equals(expected[column].combine_chunks().take(kept))
        )


def test_an_actor_refuses_another_model_than_the_driver_s():
    """As a factory gives that draws its weights anew each time."""
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten())
    other = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten())
    features = [Features(m, layers="0", tile_px=8) for m in (module, other)]
    wanted = DriverModel.of(features[0])
    check_model(features[0], wanted)
    says = "has another model than the driver .the tensor '0.bias' differs"
    with pytest.raises(ModelError, match=says):
        check_model(features[1], wanted)
    with pytest.raises(ModelError, match="has another decoder"):
        check_model(features[0], replace(wanted, decoder="pillow-0"))
