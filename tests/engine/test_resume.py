"""What a second invocation does: only what has changed, and never a row twice."""

import json
import os

import pytest

from raylatent.claim import Claim
from raylatent.errors import ClaimError, FingerprintError
from raylatent.run import RunDirectory

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("in_process")]


def sources_of(out):
    rows = RunDirectory.open(str(out)).sources().drop_columns(["mtime"]).to_pylist()
    return {row["slide"]: row for row in rows}


def ids_of(out):
    return {slide: row["source"] for slide, row in sources_of(out).items()}


def test_a_second_run_redoes_nothing(tmp_path, source, compute, assert_same, parts_of):
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


def test_a_lost_and_a_broken_part_are_redone(
    tmp_path, source, compute, assert_same, parts_of
):
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
    tmp_path, source, tiles, compute, write_slide, assert_same, parts_of
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
    tmp_path, source, tiles, compute, write_slide, assert_same, parts_of
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


def test_slides_come_and_go(
    tmp_path, source, tiles, compute, write_slide, assert_same, parts_of
):
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


def test_a_moved_source_is_not_computed_again(tmp_path, source, compute, parts_of):
    out = tmp_path / "run"
    compute(out, [source])
    before = parts_of(out)
    moved = source.rename(tmp_path / "moved")
    report = compute(out, [moved])
    assert report.counts["tiles"] == 0
    assert parts_of(out) == before
    assert sources_of(out)["a"]["uri"] == str(moved / "a.tfrecords")


def test_a_source_of_the_same_size_and_another_time_is_computed_again(
    tmp_path, source, compute, parts_of
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
    tmp_path, source, compute, assert_same, parts_of
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
