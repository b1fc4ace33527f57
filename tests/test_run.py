"""The run directory: what is begun, refused, done, set aside."""

import json
from pathlib import Path

import pyarrow as pa
import pytest

from raylatent import schema
from raylatent.errors import FingerprintError, RunError, StorageError
from raylatent.parts import write_part
from raylatent.run import RUN_JSON, RunDirectory, fingerprint, settings
from raylatent.seal import sealed_json

FIELDS = {"model": "abc", "layers": ["conv"], "dtype": "float32"}
ABOUT = {"layers": {"conv": [2], "map": [2, 3, 4]}, "versions": {}}


def part(first=0, n=2):
    wanted = schema.activations_schema({"conv": 2})
    return pa.Table.from_pylist(
        [
            {"tile_index": first + i, "source": 0, "conv": [first + i, 0.5]}
            for i in range(n)
        ],
        schema=wanted,
    )


@pytest.fixture
def run(tmp_path):
    run = RunDirectory(tmp_path / "run")
    run.begin(FIELDS, ABOUT, overwrite=False)
    return run


def fill(run, slide, units=(0, 1), quarantined="0"):
    for unit in units:
        footer = {schema.FOOTER_QUARANTINED: quarantined}
        write_part(run.store, run.part(slide, unit), part(2 * unit), footer)
        table = schema.QUARANTINE.empty_table()
        write_part(run.store, run.quarantine_part(slide, unit), table, {})
    run.refresh()


def test_opening_reads_nothing_and_needs_run_json(tmp_path, run):
    again = RunDirectory.open(str(run.uri))
    assert again.layers() == {"conv": (2,), "map": (2, 3, 4)}
    assert again.settings()["fingerprint"] == fingerprint(FIELDS)
    assert not RunDirectory(tmp_path / "none").exists()
    with pytest.raises(
        RunError, match=r"none is no run directory: it has no run\.json"
    ):
        RunDirectory.open(tmp_path / "none")
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is no JSON"),
        ("{", "is no JSON"),
        ("[1]", "is no JSON object"),
        ("[" * 200_000, "is no JSON object"),
        ("{}", "is not raylatent's"),
        ('{"schema_version": 99}', "a later version of raylatent"),
        ('{"schema_version": 2}', "an earlier version of raylatent"),
        (json.dumps(sealed_json({"schema_version": 99})), "a later version"),
        (json.dumps({**sealed_json({}), "schema_version": 2}), "not as it was written"),
        (
            f'{{"schema_version": {schema.SCHEMA_VERSION}, "fingerprint": "", '
            '"fields": {}, "layers": {}}',
            "not as it was written",
        ),
    ],
)
def test_a_run_json_that_is_not_ours(run, text, says):
    run.store.write(RUN_JSON, text.encode())
    with pytest.raises(RunError, match=says):
        RunDirectory.open(run.uri)
    with pytest.raises(RunError, match=says):
        RunDirectory(run.uri).begin(FIELDS, ABOUT, overwrite=True)


def test_the_same_configuration_goes_on(run):
    fill(run, "a")
    before = run.store.read(RUN_JSON)
    RunDirectory(run.uri).begin(dict(reversed(FIELDS.items())), {}, overwrite=True)
    assert run.store.read(RUN_JSON) == before
    assert len(run.store.list("activations")) == 2


def test_another_configuration_is_refused_with_what_differs(run):
    fill(run, "a")
    changed = {**FIELDS, "dtype": "float16", "pooling": "avg"}
    with pytest.raises(FingerprintError) as caught:
        run.begin(changed, ABOUT, overwrite=False)
    message = str(caught.value)
    assert 'dtype was "float32", now "float16"' in message
    assert 'pooling was null, now "avg"' in message
    assert "model" not in message
    assert "--overwrite" in message
    assert len(run.store.list("activations")) == 2
    for name in ("report.json", "slides.html"):
        run.store.write(name, b"of the rows that go")
    run.begin(changed, ABOUT, overwrite=True)
    assert run.store.list() == [RUN_JSON]
    assert run.settings()["fields"] == changed


def test_killed_while_overwriting_the_same_command_ends_it(run, monkeypatch):
    fill(run, "a")
    other = {**FIELDS, "dtype": "float16"}

    def killed(folder):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(run.store, "delete_folder", killed)
        with pytest.raises(KeyboardInterrupt):
            run.begin(other, ABOUT, overwrite=True)
    assert run.store.list("activations")
    with pytest.raises(RunError, match="was being overwritten"):
        RunDirectory.open(run.uri)
    again = RunDirectory(run.uri)
    again.begin(other, ABOUT, overwrite=True)
    assert again.store.list() == [RUN_JSON]


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("folder", ["maps", "activations", "removed"])
def test_somebody_s_folders_are_never_deleted(tmp_path, folder, overwrite):
    (tmp_path / folder).mkdir()
    (tmp_path / folder / "mine.txt").write_text("dear")
    with pytest.raises(RunError, match=rf"no run\.json but '{folder}/'"):
        RunDirectory(tmp_path).begin(FIELDS, ABOUT, overwrite=overwrite)
    assert (tmp_path / folder / "mine.txt").read_text() == "dear"


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_run_is_not_begun_among_other_things(tmp_path, overwrite):
    for name in ("c.svs", "a.csv", "b.txt"):
        (tmp_path / name).write_text("dear")
    (tmp_path / "thesis" / "deep").mkdir(parents=True)
    with pytest.raises(RunError) as caught:
        RunDirectory(tmp_path).begin(FIELDS, ABOUT, overwrite=overwrite)
    assert str(caught.value) == (
        f"{tmp_path} is no run directory, it has no run.json but 'thesis/', 'a.csv', "
        "'b.txt' and 1 more: choose a new or an empty folder for the run"
    )
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        *("a.csv", "b.txt", "c.svs", "thesis")
    ]


def test_other_things_are_refused_before_work_but_not_parts_of_a_lost_run_json(
    tmp_path, run
):
    RunDirectory(tmp_path / "new").refuse_before_work()
    fill(run, "a", units=(0,))
    run.refuse_before_work()
    run.store.delete(RUN_JSON)
    run.refuse_before_work()
    (tmp_path / "a.csv").write_text("dear")
    with pytest.raises(RunError, match=r"a\.csv is a file, not a folder"):
        RunDirectory(tmp_path / "a.csv").refuse_before_work()
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("dear")
    with pytest.raises(RunError, match=r"thesis\.txt"):
        RunDirectory(mine).refuse_before_work()


def test_what_nobody_put_there_is_no_hindrance(tmp_path):
    for name in (".DS_Store", "claim.json", "claim.0ab.json", ".0-0.aside"):
        (tmp_path / name).write_text("")
    for name in ("lost+found", ".ipynb_checkpoints", "demo", "bench-0-pid1", "maps"):
        (tmp_path / name).mkdir()
    RunDirectory(tmp_path).begin(FIELDS, ABOUT, overwrite=False)
    assert RunDirectory(tmp_path).exists()


def test_other_files_beside_a_run_are_left_alone(tmp_path):
    run = RunDirectory(tmp_path)
    run.begin(FIELDS, ABOUT, overwrite=False)
    (tmp_path / "notes.txt").write_text("dear")
    run.begin(FIELDS, ABOUT, overwrite=False)
    run.begin({}, ABOUT, overwrite=True)
    assert (tmp_path / "notes.txt").read_text() == "dear"


def test_parts_and_rows_in_tile_order(run):
    fill(run, "a b", units=(1, 0, 10))
    assert run.parts("a b") == [
        f"activations/slide=a b/{unit:06d}.parquet" for unit in (0, 1, 10)
    ]
    rows = run.read_rows("a b", ["tile_index"])
    assert rows.column_names == ["tile_index"]
    assert rows["tile_index"].to_pylist() == [0, 1, 2, 3, 20, 21]
    with pytest.raises(RunError, match="no rows of slide 'none'"):
        run.read_rows("none")


def test_broken_parts_are_left_out_of_the_footers(run):
    fill(run, "a", units=(0, 1, 2), quarantined="3")
    run.store.write(run.part("a", 1), b"broken")
    run.store.write("activations/slide=a/other.parquet", b"not ours")
    run.refresh()
    parts = run.footers()
    assert [(p.slide, p.unit, p.rows, p.quarantined) for p in parts] == [
        ("a", 0, 2, 3),
        ("a", 2, 2, 3),
    ]
    assert run.footers(["b"]) == []


def test_failing_storage_does_not_look_like_a_broken_part(run, monkeypatch):
    """Else whole slides would be computed again after a network's hiccup."""
    fill(run, "a")

    def fail(name):
        message = "cannot read"
        raise StorageError(message)

    monkeypatch.setattr(run.store, "open", fail)
    with pytest.raises(StorageError, match="cannot read"):
        run.footers()


def test_sources(run):
    with pytest.raises(RunError, match=r"has no sources\.parquet"):
        run.sources()
    rows = [
        {"source": i, "slide": s, "kind": "k", "uri": "/x", "size": 1, "n_indexed": n}
        for i, (s, n) in enumerate([("b", 4), ("empty", 0), ("007", 4)])
    ]
    run.write_sources(pa.Table.from_pylist(rows, schema=schema.SOURCES))
    assert run.sources().schema.remove_metadata() == schema.SOURCES
    assert run.sources()["slide"].to_pylist() == ["b", "empty", "007"]
    fill(run, "b")
    fill(run, "not in the plan")
    assert run.slides() == ["007", "b"]
    parts = [f"activations/slide=b/00000{i}.parquet" for i in (0, 1)]
    assert run.parts("b") == parts
    assert run.parts("007") == []


def test_set_aside_and_back(run):
    fill(run, "x=1%")
    before = {name: run.store.read(name) for name in run.store.list()}
    run.set_aside(["x=1%"])
    assert run.parts("x=1%") == []
    assert len(run.store.list("removed")) == 4
    run.set_aside(["x=1%"], back=True)
    assert {name: run.store.read(name) for name in run.store.list()} == before


def test_back_does_not_replace_what_is_there(run):
    fill(run, "a", units=(0, 1))
    run.set_aside(["a"])
    write_part(run.store, run.part("a", 1), part(100), {})
    run.set_aside(["a"], back=True)
    assert run.read_rows("a")["tile_index"].to_pylist() == [0, 1, 100, 101]
    assert run.store.list("removed") == []


def test_in_an_object_store():
    run = RunDirectory("memory://runs/one")
    run.begin(FIELDS, ABOUT, overwrite=False)
    fill(run, "007")
    assert run.dataset().to_table()["slide"].to_pylist() == ["007"] * 4
    assert [p.rows for p in run.footers()] == [2, 2]
    run.begin({}, ABOUT, overwrite=True)
    assert run.store.list() == [RUN_JSON]


def test_fingerprint_tells_every_field():
    prints = {fingerprint({**FIELDS, name: "other"}) for name in FIELDS}
    assert len(prints | {fingerprint(FIELDS), fingerprint({})}) == len(FIELDS) + 2


def test_what_differs_is_short():
    (told,) = settings.differences({"fields": {"a": "x" * 999}}, {"a": "y" * 999})
    assert len(told) < 150
    assert settings.differences({"fields": FIELDS}, FIELDS) == [
        "its fingerprint differs"
    ]


def test_run_json_is_readable(run):
    found = json.loads(Path(run.uri, RUN_JSON).read_text(encoding="utf-8"))
    assert found["schema_version"] == schema.SCHEMA_VERSION
    assert found["fields"] == FIELDS


@pytest.mark.parametrize(
    "content",
    [{}, {"schema_version": "x"}, {"schema_version": None, "fingerprint": "a"}],
)
def test_a_run_json_that_is_not_ours_is_refused(tmp_path, content):
    (tmp_path / "run.json").write_text(json.dumps(content))
    with pytest.raises(RunError, match="not raylatent's"):
        RunDirectory.open(str(tmp_path))
