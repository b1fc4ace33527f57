"""Each kind of tampering is named with its file; a clean run is not accused."""

import json
import os
import shutil
import unicodedata
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from raylatent import cli, schema
from raylatent.claim import Claim
from raylatent.config import VerifyConfig
from raylatent.engine import verify
from raylatent.errors import (
    ClaimError,
    ConfigError,
    RunError,
    SourceError,
    StorageError,
)
from raylatent.parts import read_footer, read_part, write_part
from raylatent.run import RunDirectory
from raylatent.seal import content_digest, sealed_json, sealed_parquet
from raylatent.slide_map import SlideMap
from raylatent.source import tfrecords
from raylatent.storage import Store
from raylatent.stored.manifest import (
    put_run_manifest,
    read_manifest,
    relisted,
    told_digests,
)
from raylatent.stored.verification import BROKEN, FOREIGN, INCOMPLETE, MISSING, WRONG
from tests.tampering import (
    NEEDS_THE_MANIFEST,
    OF_SEALS,
    TAMPERINGS,
    A,
    Q,
    edit,
    reseal,
    rewrite,
)
from tests.verify_runs import N_BAD, N_TILES, UNIT_TILES, flip


def found(report):
    return {(finding.kind, finding.name) for finding in report.findings}


def test_a_clean_run(made, verify_here, capsys):
    before = {f: f.stat().st_mtime_ns for f in made.out.rglob("*")}
    report = verify_here(made.out)
    assert report.findings == report.notes == []
    assert report.counts["slides"] == 3
    assert report.counts["rows"] == N_TILES - N_BAD
    assert report.counts["quarantined"] == N_BAD
    assert report.counts["parts"] == 7 + 3 + 7
    assert report.points == {"default": N_TILES - N_BAD}
    assert report.mosaics == ["default"]
    assert report.sources == {"as they were": 3}
    assert report.counts["bytes"] > 100_000
    assert {f: f.stat().st_mtime_ns for f in made.out.rglob("*")} == before
    n = sum(file.is_file() for file in made.out.rglob("*"))
    assert f"verify  {n}/{n} files" in capsys.readouterr().err


@pytest.mark.parametrize("kind", TAMPERINGS | OF_SEALS)
def test_tampering_is_named(kind, made, verify_here):
    tamper, expected = (TAMPERINGS | OF_SEALS)[kind]
    tamper(made.out)
    report = verify_here(made.out)
    assert found(report) == expected
    assert all("\n" not in str(finding) for finding in report.findings)


@pytest.mark.parametrize("kind", TAMPERINGS | OF_SEALS)
def test_tampering_is_found_without_a_manifest(kind, made, verify_here):
    """As between a kill and the end of the run that goes on."""
    shutil.rmtree(made.out / "manifest")
    assert verify_here(made.out).findings == []
    tamper, _ = (TAMPERINGS | OF_SEALS)[kind]
    (made.out / "manifest").mkdir()  # for those that damage one
    (made.out / "manifest/activations.parquet").touch()
    tamper(made.out)
    shutil.rmtree(made.out / "manifest")
    report = verify_here(made.out)
    unseen = kind in NEEDS_THE_MANIFEST or "manifest" in kind
    assert bool(report.findings) != unseen
    for name in ("activations", "map-default", "mosaic-default"):
        (note,) = [n for n in report.notes if f"no manifest/{name}.parquet" in n]
        assert "checked by the seals" in note


def test_what_another_configuration_left_is_found_though_it_is_listed(
    made, verify_here
):
    """A manifest says what was there when the verb ended: that may be too much."""
    for name, key in (
        (f"{A}1.parquet", schema.FOOTER_FINGERPRINT),
        (f"{A}2.parquet", schema.FOOTER_SOURCE),
    ):
        rewrite(name, lambda t, f, key=key: (t, {**f, key: "0"}))(made.out)
    put_run_manifest(RunDirectory(str(made.out)), {})
    report = verify_here(made.out)
    assert found(report) == {(WRONG, f"{A}1.parquet"), (WRONG, f"{A}2.parquet")}
    says = {finding.name: finding.says for finding in report.findings}
    assert says[f"{A}1.parquet"].startswith("its fingerprint is 0, not ")


def test_what_is_wrong_with_one_file_is_not_said_of_others(made, verify_here):
    """Parts are not compared with a run.json or map.json that is not the right one."""
    reseal("run.json", fingerprint="0", fields={"dtype": "float64"})(made.out)
    assert found(verify_here(made.out)) == {(WRONG, "run.json")}
    (made.out / "manifest/map-default.parquet").unlink()
    (made.out / "maps/default/map.json").write_text("{")
    assert found(verify_here(made.out)) == {
        (WRONG, "run.json"),
        (BROKEN, "maps/default/map.json"),
    }


@pytest.mark.parametrize("to", ["activations", "map-other", "activations (copy)"])
def test_a_manifest_of_other_files_is_named(to, made, verify_here):
    manifests = made.out / "manifest"
    shutil.copy(manifests / "map-default.parquet", manifests / f"{to}.parquet")
    report = verify_here(made.out)
    assert found(report) == {(WRONG, f"manifest/{to}.parquet")}
    assert report.counts["rows"] == N_TILES - N_BAD


def test_a_manifest_of_files_elsewhere_is_not_followed(made, verify_here, tmp_path):
    (tmp_path / "secret").write_text("x")
    listed = {schema.PATH: ["../secret"], schema.SIZE: [1], schema.DIGEST: ["0"]}
    name = "manifest/activations.parquet"
    write_part(Store(made.out), name, pa.table(listed, schema=schema.LISTED_FILES), {})
    assert found(verify_here(made.out)) == {(WRONG, name)}
    assert told_digests("maps/b/map.json", {"files": {"../../../etc/x": "0"}}) == {}


def test_files_that_cannot_be_opened_are_named(made, verify_here):
    (made.out / f"{A}9.parquet").symlink_to("nowhere")
    odd = made.out / "maps/default" / os.fsdecode(b"\xff\x1b.png")
    odd.write_bytes(b"x")
    (made.out / "activations/.DS_Store").write_bytes(b"by a file manager")
    report = verify_here(made.out)
    assert found(report) == {
        (MISSING, f"{A}9.parquet"),
        (FOREIGN, "maps/default/\udcff\x1b.png"),
    }
    assert all(str(finding).isprintable() for finding in report.findings)


def test_a_copy_by_hand_is_never_listed(made, verify_here):
    """Readers of the folder would read it: the verb that ends must not take it in."""
    part = made.out / f"{A}1.parquet"
    copies = [part.with_name("000001 (copy).parquet"), part.with_name("01.parquet")]
    for copied in copies:
        shutil.copy(part, copied)
    put_run_manifest(RunDirectory(str(made.out)), {})
    names = {copied.relative_to(made.out).as_posix() for copied in copies}
    assert found(verify_here(made.out)) == {(FOREIGN, name) for name in names}


def test_maps_and_mosaics_of_what_was_before(made, verify_here):
    """They are sound: that they are to be made anew is a note."""
    shutil.rmtree(made.out / "manifest")
    rewrite(f"{A}1.parquet", lambda t, f: (t.take([*range(19, -1, -1)]), f))(made.out)
    report = verify_here(made.out)
    assert any("the map default is of other rows" in note for note in report.notes)
    reseal("maps/default/map.json", quality={})(made.out)
    report = verify_here(made.out)
    assert any("the mosaic default is of another map" in n for n in report.notes)


def test_what_python_saves_into_a_run_is_listed(made, verify_here):
    """A map saved over another, a mosaic drawn anew, and pictures of somebody's own."""
    run = RunDirectory(str(made.out))
    folder = f"{made.out}/maps/default"
    slide_map = SlideMap.load(folder)
    slide_map.save(folder)
    slide_map.save(f"{made.out}/maps/copy")
    assert not list(Path(folder).glob("umap*"))  # pictures of the map before
    slide_map.save(f"{folder}/mine.png")
    mosaic = slide_map.generate_mosaic(num_tiles_x=3, cell_px=16)
    mosaic.save(f"{made.out}/mosaics/default")
    report = verify_here(made.out)
    assert report.findings == []
    assert report.points == dict.fromkeys(("copy", "default"), N_TILES - N_BAD)
    assert run.store.list("manifest") == [
        f"manifest/{name}.parquet"
        for name in (
            *("activations", "explore-default"),
            *("map-copy", "map-default", "mosaic-default"),
        )
    ]


def test_pictures_that_python_draws_anew_are_listed_anew(made, verify_here):
    folder = f"{made.out}/maps/default"
    slide_map = SlideMap.load(folder)
    slide_map.label_by_slide({"a": "x", "b é": "y", "c": "y"})
    slide_map.save(f"{folder}/umap.png", s=9)
    slide_map.save_plot(f"{folder}/umap.svg")
    slide_map.save_by_label(f"{folder}/umap_by_label.png")
    mosaic = slide_map.generate_mosaic(num_tiles_x=3, cell_px=16)
    mosaic.save(f"{made.out}/mosaics/default/mosaic.png")
    mosaic.save_report(f"{made.out}/mosaics/default/tiles.csv")
    report = verify_here(made.out)
    assert report.findings == report.notes == []
    drawn = ("maps/default/umap.png", "maps/default/umap.svg")
    drawn += ("maps/default/umap_by_label.png", "mosaics/default/tiles.csv")
    assert {*drawn} <= report.listed.keys()


def test_a_mosaic_that_python_saved_is_known_to_be_of_another_map(made, verify_here):
    slide_map = SlideMap.load(f"{made.out}/maps/default")
    mosaic = slide_map.generate_mosaic(num_tiles_x=3, cell_px=16)
    slide_map.filter(["a"])
    of_some = slide_map.generate_mosaic(num_tiles_x=3, cell_px=16)
    mosaic.save(f"{made.out}/mosaics/mine")
    of_some.save(f"{made.out}/mosaics/some")
    mosaic.save(f"{made.out}/elsewhere")
    assert "map" not in json.loads((made.out / "elsewhere/mosaic.json").read_bytes())
    assert verify_here(made.out).notes == []
    slide_map.save(f"{made.out}/maps/default")
    notes = " ".join(verify_here(made.out).notes)
    for name in ("default", "mine", "some"):
        assert f"the mosaic {name} is of another map than there is now" in notes


def test_while_a_map_or_mosaic_is_written_nothing_is_lacking(made, verify_here):
    folder = f"{made.out}/mosaics/default"
    mosaic = SlideMap.load(f"{made.out}/maps/default").generate_mosaic(num_tiles_x=3)
    with relisted(folder):
        (made.out / "mosaics/default/mosaic.json").unlink()
        report = verify_here(made.out)
        assert report.findings == []
        assert str(os.getpid()) in report.worked_on_by
        for write in (
            lambda: mosaic.save(folder),
            lambda: mosaic.slide_map.save(f"{made.out}/maps/default"),
            lambda: mosaic.slide_map.save(f"{made.out}/maps/default/umap.png"),
        ):
            with pytest.raises(ClaimError, match="is being worked on by"):
                write()
    mosaic.save(folder)
    assert verify_here(made.out).findings == []


def test_names_and_footers_cannot_draw_on_the_terminal(made, verify_here, capsys):
    table = read_part(Store(made.out), f"{A}1.parquet", None)
    _, footer = read_footer(Store(made.out), f"{A}1.parquet")
    lie = {**footer, schema.FOOTER_SLIDE: "a\nverified  /run\x1b[2K"}
    write_part(Store(made.out), f"{A}1.parquet", table, lie)
    odd = made.out / "maps/a\nverified  run"
    shutil.copytree(made.out / "maps/default", odd)
    shutil.copytree(made.out / "mosaics/default", made.out / "mosaics/m\nverified  run")
    report = verify_here(made.out)
    assert report.findings
    assert all(str(finding).isprintable() for finding in report.findings)
    assert cli.main(["verify", str(made.out)]) == 1
    said = capsys.readouterr()
    assert "\x1b" not in said.out + said.err
    assert not any(line.startswith("verified") for line in said.out.splitlines())
    assert "map       a\\nverified  run, 96 points" in said.out


def test_a_manifest_is_that_of_the_files(made):
    """Copied from what the files tell; the run's other folders are in others."""
    store = Store(made.out)
    manifests = {
        verb: read_manifest(store, f"manifest/{verb}.parquet")
        for verb in ("activations", "map-default", "mosaic-default", "explore-default")
    }
    every = {name: one for files in manifests.values() for name, one in files.items()}
    there = {f.relative_to(made.out).as_posix() for f in made.out.rglob("*.*")}
    assert every.keys() == {name for name in there if not name.startswith("manifest")}
    for name, listed in every.items():
        data = (made.out / name).read_bytes()
        assert listed.size == len(data)
        own = content_digest(data)
        if name.endswith(".json"):
            own = json.loads(data)["digest"]
        elif name.endswith(".parquet"):
            own = read_footer(store, name)[1][schema.FOOTER_SEAL]
        assert listed.digest == own


def test_cells_that_name_no_row(made, verify_here):
    """A mosaic of before its run lost a slide's last tiles."""
    store = Store(made.out)
    name = "mosaics/default/cells.parquet"
    cells = read_part(store, name).replace_schema_metadata()
    at = cells.schema.get_field_index(schema.TILE_INDEX)
    far = cells.set_column(at, cells.schema.field(at), [[999] * len(cells)])
    store.write(name, sealed_parquet(far))
    edit("mosaics/default/mosaic.json", files=..., digest=...)(made.out)
    assert (WRONG, name) in found(verify_here(made.out))


def test_a_run_in_an_object_store(made, verify_here):
    store = Store("memory://verified/run")
    for file in made.out.rglob("*.*"):
        store.write(file.relative_to(made.out).as_posix(), file.read_bytes())
    report = verify_here(store.uri)
    assert report.findings == report.notes == []
    assert report.counts["rows"] == N_TILES - N_BAD
    store.delete(f"{A}1.parquet")
    store.write("maps/default/umap.png", b"x")
    assert found(verify_here(store.uri)) == {
        (MISSING, f"{A}1.parquet"),
        (BROKEN, "maps/default/umap.png"),
    }


def test_a_run_that_was_killed_is_incomplete_not_damaged(made, verify_here):
    for name in ("report.json", f"{A}3.parquet", "activations/slide=c/000000.parquet"):
        (made.out / name).unlink()
    shutil.rmtree(made.out / "manifest")
    shutil.rmtree(made.out / "maps"), shutil.rmtree(made.out / "mosaics")
    (made.out / "quarantine/slide=c/000000.parquet").unlink()
    report = verify_here(made.out)
    assert found(report) == {
        (INCOMPLETE, "report.json"),
        (INCOMPLETE, "activations/slide=a"),
        (INCOMPLETE, "activations/slide=c"),
    }
    assert report.counts["missing"] == 64 - 3 * UNIT_TILES + 5
    says = {finding.name: finding.says for finding in report.findings}
    assert says["activations/slide=a"] == "4 of 64 tiles are not done: run again"
    flip(made.out / f"{A}0.parquet", 999)
    assert (BROKEN, f"{A}0.parquet") in found(verify_here(made.out))


def test_an_unfinished_run_is_not_called_verified(made, verify_here, capsys):
    store = Store(made.out, writer="0" * 12)
    with Claim(store, store.writer):
        assert cli.main(["verify", str(made.out)]) == 1
    said = capsys.readouterr()
    assert "verified" not in said.out
    assert f"unfinished: pid {os.getpid()} on " in said.err


def test_slides_that_failed_are_a_note(made, verify_here):
    path = made.out / "report.json"
    report = json.loads(path.read_text())
    path.write_text(json.dumps(sealed_json({**report, "failed": {"z": "torn"}})))
    put_run_manifest(RunDirectory(str(made.out)), {})
    report = verify_here(made.out)
    assert report.findings == []
    assert any("1 slides failed when the run ended, as 'z'" in n for n in report.notes)


def test_while_a_driver_works_nothing_is_lacking(made, verify_here):
    (made.out / f"{A}3.parquet").unlink()
    (made.out / "report.json").unlink()
    store = Store(made.out, writer="0" * 12)
    with Claim(store, store.writer):
        (made.out / f"activations/.{store.writer}-{'0' * 32}.aside").write_bytes(b"")
        report = verify_here(made.out)
        assert report.findings == []
        assert report.worked_on_by.startswith(f"pid {os.getpid()} on ")
        (note,) = report.notes
        assert "is being worked on" in note
        assert "parts may come and go" in note
        flip(made.out / f"{A}0.parquet", 999)
        (made.out / "maps/default/umap.png").write_bytes(b"drawn anew just now")
        assert found(verify_here(made.out)) == {(BROKEN, f"{A}0.parquet")}
    report = verify_here(made.out)
    assert len(report.findings) == 4
    assert [n for n in report.notes if ".aside was left by a writer" in n]


def test_sources_that_are_gone_or_changed_are_a_note(made, verify_here, tmp_path):
    gone = replace(made, sources=tmp_path / "elsewhere")
    shutil.copytree(made.sources, gone.sources)
    store = Store(made.out)
    plan = read_part(store, "sources.parquet")
    at = plan.schema.get_field_index(schema.URI)
    uris = [f"{tmp_path}/elsewhere/{n}.tfrecords" for n in ("a", "b é", "none")]
    moved = plan.set_column(at, plan.schema.field(at), [uris])
    write_part(store, "sources.parquet", moved, {})
    put_run_manifest(RunDirectory(str(made.out)), {})
    os.utime(gone.sources / "a.tfrecords", ns=(1, 1))
    report = verify_here(made.out)
    assert report.findings == []
    assert report.sources == {"changed": 1, "as they were": 1, "gone": 1}


def test_records_are_checked_where_the_sources_are_said_to_be(
    made, verify_here, tmp_path
):
    moved = tmp_path / "moved"
    shutil.copytree(made.sources, moved)
    report = verify_here(made.out, source_root=str(moved))
    assert report.findings == []
    assert report.counts["records"] == N_TILES - N_BAD
    flip(moved / "a.tfrecords", 8 * 1000)
    (moved / "c.tfrecords").unlink()
    report = verify_here(made.out, source_root=str(moved))
    assert report.sources["gone"] == 1
    broken, missing = report.findings
    assert broken.name == str(moved / "a.tfrecords")
    assert "record at byte 0" in broken.says
    assert missing.kind == MISSING
    assert "slide 'c'" in missing.name


def test_a_wrong_source_root_is_refused_before_all_is_read(
    made, verify_here, monkeypatch
):
    monkeypatch.setattr(verify, "_read", pytest.fail)
    with pytest.raises(SourceError, match="nowhere"):
        verify_here(made.out, source_root=f"{made.out}/nowhere")


def test_moved_sources_are_found_by_names_of_other_characters(
    made, verify_here, tmp_path
):
    """As by way of a Mac."""
    moved = tmp_path / "moved"
    moved.mkdir()
    for file in made.sources.iterdir():
        shutil.copy2(file, moved / unicodedata.normalize("NFD", file.name))
    report = verify_here(made.out, source_root=str(moved))
    assert report.findings == []
    assert report.sources == {"as they were": 3}
    assert report.counts["records"] == N_TILES - N_BAD


def test_storage_of_sources_that_does_not_answer(made, verify_here, monkeypatch):
    """It is asked once, and nothing is called broken."""
    asked = []

    def fail(uri, *_):
        asked.append(uri)
        message = "cannot look"
        raise StorageError(message) from OSError("no route to host")

    with monkeypatch.context() as patch:
        patch.setattr(tfrecords, "file_stat", fail)
        report = verify_here(made.out)
    assert report.findings == []
    assert report.sources == {verify.UNSEEN: 3}
    assert len(asked) == 1
    monkeypatch.setattr(tfrecords, "iter_records", fail)
    with pytest.raises(StorageError, match="cannot look"):
        verify_here(made.out, source_root=str(made.sources))


def test_a_source_that_is_too_short_is_broken(made, verify_here, tmp_path):
    moved = tmp_path / "moved"
    shutil.copytree(made.sources, moved)
    os.truncate(moved / "a.tfrecords", (moved / "a.tfrecords").stat().st_size - 9)
    (finding,) = verify_here(made.out, source_root=str(moved)).findings
    assert (finding.kind, finding.name) == (BROKEN, str(moved / "a.tfrecords"))


def test_no_run(tmp_path, verify_here):
    with pytest.raises(RunError, match="is no run directory"):
        verify_here(tmp_path / "nothing")


def test_one_run_is_given():
    assert VerifyConfig(run="a").directory == VerifyConfig(out="a").directory == "a"
    for wrong in ({}, {"run": "a", "out": "a"}):
        with pytest.raises(ConfigError, match="verify takes one run directory"):
            VerifyConfig(**wrong)


@pytest.mark.ray
def test_the_verb_spread_over_ray_finds_the_same(made, verify_here, capsys):
    assert cli.main(["verify", str(made.out)]) == 0
    said = capsys.readouterr()
    assert f"verified  {made.out}" in said.out
    assert "map       default, 96 points" in said.out
    for unit in range(3):
        flip(made.out / f"{A}{unit}.parquet", 999)
    (made.out / f"{Q}2.parquet").unlink()
    assert cli.main(["verify", "--out", str(made.out)]) == 1
    said = capsys.readouterr().err
    lines = [line for line in said.splitlines() if line.startswith("raylatent: ")]
    expected = [f"raylatent: {finding}" for finding in verify_here(made.out).findings]
    assert lines == expected
    assert cli.main(["verify", str(made.out / "nothing")]) == 2
