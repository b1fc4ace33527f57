"""What a second invocation does: only what has changed, and never a row twice."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from raylatent import schema
from raylatent.claim import Claim
from raylatent.engine import activations
from raylatent.errors import ClaimError, FingerprintError, IncompleteError
from raylatent.run import RunDirectory

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("in_process")]


@pytest.fixture
def source(tmp_path, tiles, write_slide):
    """A folder with slides a (64 tiles), b (30), c (5)."""
    folder = tmp_path / "tfrecords"
    folder.mkdir()
    write_slide(folder, "a", tiles)
    write_slide(folder, "b", tiles[:30])
    write_slide(folder, "c", tiles[:5])
    return folder


def parts_of(out):
    """Name -> inode and time of each activations part: the same where not redone."""
    out = Path(out)
    return {
        file.relative_to(out).as_posix(): (file.stat().st_ino, file.stat().st_mtime_ns)
        for file in sorted(out.glob("activations/*/*.parquet"))
    }


def sources_of(out):
    rows = RunDirectory.open(str(out)).sources().drop_columns(["mtime"]).to_pylist()
    return {row["slide"]: row for row in rows}


def ids_of(out):
    return {slide: row["source"] for slide, row in sources_of(out).items()}


def test_a_second_run_redoes_nothing(tmp_path, source, compute, assert_same):
    out = tmp_path / "run"
    first = compute(out, [source])
    assert first.counts["tiles"] == 99
    before = parts_of(out)
    assert len(before) == 4 + 2 + 1
    second = compute(out, [source])
    assert second.counts["tiles"] == 0
    assert parts_of(out) == before
    assert not second.failed
    assert second.n_rows == 99
    assert_same(out, [source])


def test_a_lost_and_a_broken_part_are_redone(tmp_path, source, compute, assert_same):
    out = tmp_path / "run"
    compute(out, [source])
    before = parts_of(out)
    (out / "activations/slide=a/000002.parquet").unlink()
    (out / "activations/slide=b/000001.parquet").write_bytes(b"PAR1 no more")
    report = compute(out, [source])
    assert report.counts["tiles"] == 20 + 10
    after = parts_of(out)
    assert {name for name in before if after[name] != before[name]} == {
        "activations/slide=a/000002.parquet",
        "activations/slide=b/000001.parquet",
    }
    assert_same(out, [source])


def test_a_grown_source_redoes_its_units_only(
    tmp_path, source, tiles, compute, write_slide, assert_same
):
    out = tmp_path / "run"
    compute(out, [source])
    before = parts_of(out)
    write_slide(source, "b", tiles[:47])
    report = compute(out, [source])
    assert report.counts["tiles"] == 47
    after = parts_of(out)
    assert all(after[n] == before[n] for n in before if "slide=b" not in n)
    assert sum("slide=b" in name for name in after) == 3
    assert_same(out, [source])


def test_a_shrunk_source_loses_the_parts_beyond_its_end(
    tmp_path, source, tiles, compute, write_slide, assert_same
):
    out = tmp_path / "run"
    write_slide(source, "a", tiles, bad={63})
    compute(out, [source])
    assert (out / "quarantine/slide=a/000003.parquet").exists()
    # Parts that cannot be read are parts too.
    (out / "activations/slide=a/000003.parquet").write_bytes(b"broken")
    write_slide(source, "a", tiles[:21])
    report = compute(out, [source])
    assert report.counts["tiles"] == 21
    assert sorted(n for n in parts_of(out) if "slide=a" in n) == [
        "activations/slide=a/000000.parquet",
        "activations/slide=a/000001.parquet",
    ]
    assert not (out / "quarantine/slide=a/000003.parquet").exists()
    assert_same(out, [source])


def test_slides_come_and_go(tmp_path, source, tiles, compute, write_slide, assert_same):
    out, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    elsewhere.mkdir()
    compute(out, [source])
    before, ids = parts_of(out), ids_of(out)

    # Taken away: its rows are set aside, and named.
    for file in source.glob("a.*"):
        file.rename(elsewhere / file.name)
    report = compute(out, [source])
    assert report.removed == ["a"]
    assert json.loads((out / "report.json").read_text())["removed"] == ["a"]
    assert report.counts["tiles"] == 0
    assert not (out / "activations/slide=a").exists()
    assert len(list((out / "removed/activations/slide=a").glob("*.parquet"))) == 4
    assert set(sources_of(out)) == {"b", "c"}

    # Another comes: the id of the one that is away is not given to it.
    write_slide(source, "aa", tiles[:3])
    report = compute(out, [source])
    assert report.counts["tiles"] == 3
    assert ids_of(out)["aa"] not in ids.values()

    # Back: its rows come back as they were, and are not computed again.
    for file in elsewhere.glob("a.*"):
        file.rename(source / file.name)
    report = compute(out, [source])
    assert report.counts["tiles"] == 0
    assert report.removed == []
    after = parts_of(out)
    assert {name: after[name] for name in before} == before
    assert not (out / "removed").exists()
    assert {slide: ids_of(out)[slide] for slide in ids} == ids
    assert_same(out, [source], ids=ids_of(out))


def test_a_moved_source_is_not_computed_again(tmp_path, source, compute):
    out = tmp_path / "run"
    compute(out, [source])
    before = parts_of(out)
    moved = source.rename(tmp_path / "moved")
    report = compute(out, [moved])
    assert report.counts["tiles"] == 0
    assert parts_of(out) == before
    assert sources_of(out)["a"]["uri"] == str(moved / "a.tfrecords")


def test_a_source_of_the_same_size_and_another_time_is_computed_again(
    tmp_path, source, compute
):
    out = tmp_path / "run"
    compute(out, [source])
    before = parts_of(out)
    os.utime(source / "c.tfrecords", ns=(1, 1))
    assert compute(out, [source]).counts["tiles"] == 5
    after = parts_of(out)
    assert [n for n in after if after[n] != before[n]] == [
        "activations/slide=c/000000.parquet"
    ]


def test_another_configuration_is_refused_and_overwritten_on_demand(
    tmp_path, source, compute, assert_same
):
    out = tmp_path / "run"
    compute(out, [source])
    before = parts_of(out)
    with pytest.raises(FingerprintError, match=r'dtype was "float32", now "float16"'):
        compute(out, [source], dtype="float16")
    with pytest.raises(FingerprintError, match="unit_tiles was 20, now 16"):
        compute(out, [source], unit_tiles=16)
    assert parts_of(out) == before
    assert not (out / "claim.json").exists()
    report = compute(out, [source], dtype="float16", overwrite=True)
    assert report.counts["tiles"] == 99
    assert_same(out, [source], dtype="float16")


def test_parts_of_another_configuration_do_not_count(tmp_path, source, compute):
    """An actor that outlived its driver may write one after --overwrite."""
    out = tmp_path / "run"
    compute(out, [source], dtype="float16")
    stale = (out / "activations/slide=c/000000.parquet").read_bytes()
    compute(out, [source], overwrite=True)
    part = out / "activations/slide=c/000000.parquet"
    part.write_bytes(stale)
    report = compute(out, [source])
    assert report.counts["tiles"] == 5
    assert part.read_bytes() != stale
    assert not report.failed


def test_a_second_driver_is_refused(tmp_path, source, compute):
    out = tmp_path / "run"
    compute(out, [source])
    run = RunDirectory(str(out))
    with Claim(run.store, "other"), pytest.raises(ClaimError, match="being worked on"):
        compute(out, [source])
    assert not compute(out, [source]).failed


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
    assert latest["bound_by"] in {"decode", "forward", "write"}
    assert set(latest["tiles_per_actor_s_by_stage"]) == {"decode", "forward", "write"}


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


def test_a_slide_that_breaks_keeps_its_rows(tmp_path, source, compute):
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
    tmp_path, tiles, compute, write_slide, golden_model, plain_loop
):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    whole.mkdir()
    broken.mkdir()
    write_slide(whole, "s", tiles)
    write_slide(broken, "s", tiles, bad={33})
    compute(tmp_path / "run", [broken])
    expected = plain_loop(golden_model, [whole], unit_tiles=20)["s"][0]
    found = RunDirectory.open(str(tmp_path / "run")).read_rows("s")
    kept = [i for i in range(64) if i != 33]
    assert found[schema.TILE_INDEX].to_pylist() == kept
    for column in ("postconv", schema.PREDICTIONS):
        assert (
            found[column]
            .combine_chunks()
            .equals(expected[column].combine_chunks().take(kept))
        )
