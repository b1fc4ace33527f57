"""A re-run of the same command mends what is damaged, and redoes nothing else."""

import logging
import shutil

import pytest

from raylatent import cli, read
from raylatent.engine.done import set_strays_aside
from raylatent.run import RunDirectory
from tests.faults.ledger import compare, stored
from tests.tampering import TAMPERINGS, A, P, Q, edit, truncate, unseal
from tests.verify_runs import flip

pytestmark = [pytest.mark.ray, pytest.mark.campaign]

POINTS = "maps/default/points"


@pytest.fixture
def rerun(made, finished_run, verify_here, caplog):
    """Run the same command; the lines of warnings. The run is what it was, then."""

    def run(*options):
        with caplog.at_level(logging.WARNING, "raylatent"):
            assert cli.main([*made.argv[:-2], *options, *made.argv[-2:]]) == 0
        assert verify_here(made.out).findings == []
        audit = compare(stored(made.out), stored(finished_run.out))
        assert (audit.lost, audit.doubled, audit.differing) == (0, 0, 0)
        for file in sorted(finished_run.out.glob("maps/**/*.parquet")):
            there = made.out / file.relative_to(finished_run.out)
            assert there.read_bytes() == file.read_bytes()
        return caplog.text

    return run


@pytest.fixture(autouse=True)
def _propagating(monkeypatch):
    """Log lines reach caplog: the command line has a handler of its own."""
    log = logging.getLogger("raylatent")
    monkeypatch.setattr(log, "handlers", [logging.NullHandler()])


def inodes(out):
    return {file: file.stat().st_ino for file in sorted(out.rglob("*.parquet"))}


def changed(out, before):
    now = inodes(out)
    return {
        file.relative_to(out).as_posix()
        for file in now
        if now[file] != before.get(file)
        and file.parts[-2] not in {"default", "manifest"}
        and file.name != "sources.parquet"
    }


def test_parts_and_their_quarantine(made, rerun):
    flip(made.out / f"{A}1.parquet", 8 * 2000)
    flip(made.out / "activations/slide=b é/000000.parquet", -100)
    (made.out / f"{Q}2.parquet").unlink()
    truncate("quarantine/slide=c/000000.parquet")(made.out)
    shutil.copy(made.out / f"{Q}0.parquet", made.out / f"{Q}3.parquet")
    shutil.copy(made.out / f"{A}0.parquet", made.out / f"{A}4.parquet")
    flip(made.out / f"{P}0.parquet", 8 * 500)
    (made.out / f"{P}1.parquet").unlink()
    shutil.copy(made.out / f"{P}2.parquet", made.out / f"{P}7.parquet")
    truncate("mosaics/default/mosaic.png")(made.out)
    truncate("report.json")(made.out)
    before = inodes(made.out)
    said = rerun()
    redone = {
        *(f"{A}1.parquet", f"{A}2.parquet", "activations/slide=c/000000.parquet"),
        "activations/slide=b é/000000.parquet",
    }
    quarantine = {f"{Q}2.parquet", "quarantine/slide=c/000000.parquet"}
    points = {f"{P}0.parquet", f"{P}1.parquet"}
    assert changed(made.out, before) == redone | quarantine | points
    for name in (f"{A}1", f"{Q}2", f"{Q}3", f"{A}4", f"{P}0", f"{P}1", f"{P}7"):
        assert f"{name}.parquet" in said


def test_a_byte_flipped_between_kill_and_resume(made, rerun, verify_here):
    """Without a manifest, which only a run that ended has."""
    for name in ("manifest/activations.parquet", "report.json"):
        (made.out / name).unlink()
    flip(made.out / f"{A}1.parquet", 8 * 2000)
    before = inodes(made.out)
    named = {finding.name for finding in verify_here(made.out).findings}
    assert named == {f"{A}1.parquet", "report.json"}
    rerun()
    assert changed(made.out, before) == {f"{A}1.parquet"}
    assert (made.out / "manifest/activations.parquet").exists()


def test_what_lacks_seals_or_lies_where_it_should_not(made, rerun):
    for stage in ("activations", "quarantine"):
        shutil.copytree(
            made.out / f"{stage}/slide=a", made.out / f"{stage}/slide=ghost"
        )
    for name in (f"{A}1.parquet", f"{Q}2.parquet", f"{P}0.parquet", "sources.parquet"):
        unseal(name)(made.out)
    for name in (A, Q, P):
        longer = f"{name}0.parquet".replace("/0", "/00")
        shutil.copy(made.out / f"{name}0.parquet", made.out / longer)
    (made.out / "grids/slide=a").mkdir(parents=True)
    shutil.copy(made.out / f"{Q}0.parquet", made.out / "grids/slide=a/000000.parquet")
    assert (
        sum(read(made.out).to_table()["slide"].to_pylist().count(s) for s in "a") == 62
    )
    rerun()
    assert set(read(made.out).to_table()["slide"].to_pylist()) == {"a", "b é", "c"}
    assert (made.out / "removed/activations/slide=ghost/000000.parquet").exists()


def test_files_of_others_are_told_of(made, caplog, monkeypatch):
    """Readers of the folder would read them too."""
    monkeypatch.setattr(logging.getLogger("raylatent"), "propagate", True)
    part = made.out / "activations/slide=c/000000.parquet"
    shutil.copy(part, part.with_name("000000 (copy).parquet"))
    set_strays_aside(RunDirectory(str(made.out)), {"a", "b é", "c"}, set())
    assert "1 files below activations/ are not this run's" in caplog.text


def test_a_map_without_a_digest_is_made_anew(made, finished_run, rerun):
    edit("maps/default/map.json", frame={"lower": [-1, -1]}, digest=...)(made.out)
    rerun()
    name = "maps/default/map.json"
    assert (made.out / name).read_bytes() == (finished_run.out / name).read_bytes()


def test_a_folder_in_place_of_a_part(made, capsys):
    (made.out / f"{A}1.parquet").unlink()
    (made.out / f"{A}1.parquet").mkdir()
    assert cli.main(list(made.argv)) != 0
    assert "move it away and run again" in capsys.readouterr().err


def test_the_plan_and_run_json(made, rerun):
    """From the command, as long as the parts say that they are of it."""
    before = inodes(made.out)
    truncate("sources.parquet")(made.out)
    truncate("run.json")(made.out)
    truncate("manifest/activations.parquet")(made.out)
    said = rerun()
    assert changed(made.out, before) == set()
    assert "sources.parquet is broken and is made anew" in said
    assert "run.json is written anew" in said


@pytest.mark.parametrize("name", ["map.json", "model.npz"])
def test_a_map_is_fitted_again(name, made, rerun):
    truncate(f"maps/default/{name}")(made.out)
    rerun()


def test_without_recheck_footers_are_trusted(made, verify_here):
    flip(made.out / f"{A}1.parquet", 8 * 2000)
    before = inodes(made.out)
    argv = [*made.argv[:-2], "--no-recheck", *made.argv[-2:]]
    argv[0] = "activations"
    dropped = ("--n-neighbors", "--umap", "--num-tiles-x", "--cell-px")
    for option in dropped:
        at = argv.index(option)
        del argv[at : at + 2]
    assert cli.main(argv) == 0
    assert changed(made.out, before) == set()
    (finding,) = verify_here(made.out).findings
    assert finding.name == f"{A}1.parquet"
    argv.remove("--no-recheck")
    assert cli.main(argv) == 0
    assert changed(made.out, before) == {f"{A}1.parquet"}
    assert verify_here(made.out).findings == []


def test_a_broken_run_json_of_another_command_is_refused(made, capsys):
    truncate("run.json")(made.out)
    argv = [*made.argv[:-2], "--dtype", "float16", *made.argv[-2:]]
    assert cli.main(argv) == 2
    assert "run.json is no JSON" in capsys.readouterr().err


def test_files_of_others_are_left(made, verify_here):
    tamper, expected = TAMPERINGS["foreign files"]
    tamper(made.out)
    assert cli.main(list(made.argv)) == 0
    found = {(finding.kind, finding.name) for finding in verify_here(made.out).findings}
    assert found == expected
