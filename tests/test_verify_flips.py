"""No flipped bit survives: of parts, plan, JSON, arrays and pictures."""

import json
import random
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raylatent import schema
from raylatent.errors import BrokenPartError
from raylatent.parts import check_part, write_part
from raylatent.run import RunDirectory
from raylatent.seal import (
    json_holds,
    seal_in,
    seal_of,
    sealed_json,
    sealed_parquet,
)
from raylatent.storage import Store
from raylatent.stored.manifest import put_run_manifest
from tests.verify_runs import flip

N_FLIPS = 150


def table():
    """Every kind of column that a part has."""
    return pa.table(
        {
            "tile_index": pa.array([0, 1, 2]),
            "loc_x": pa.array([1, None, 3], pa.int32()),
            "error": pa.array(["bad", "bad", None]),
            "layer": pa.FixedSizeListArray.from_arrays(
                pa.array([float(i) for i in range(12)], pa.float32()), 4
            ),
        }
    )


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


def damaged(data, bit):
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << (bit % 8)
    return bytes(changed)


def test_each_bit_of_a_part_counts(store, monkeypatch):
    """All of them: pages, their headers, statistics, metadata, seal, magic."""
    write_part(store, "p.parquet", table(), {schema.FOOTER_SLIDE: "é ✓"})
    data = store.read("p.parquet")
    assert check_part(store, "p.parquet").footer[schema.FOOTER_SEAL] == seal_of(data)
    assert all(seal_of(damaged(data, bit)) is None for bit in range(8 * len(data)))
    monkeypatch.setattr(store, "read", lambda name: damaged(data, 999))
    with pytest.raises(BrokenPartError, match="its bytes are not those"):
        check_part(store, "p.parquet")


@pytest.mark.parametrize("n_bytes", [0, 1, 8, 100, -1, -8, -100])
def test_truncated_and_grown_parts(store, n_bytes):
    write_part(store, "p.parquet", table(), {})
    data = store.read("p.parquet")
    for content in (data[:n_bytes], data + b"PAR1", data + data):
        store.write("p.parquet", content)
        with pytest.raises(BrokenPartError, match=r"p\.parquet is broken"):
            check_part(store, "p.parquet")


def test_bytes_do_not_depend_on_chunks(store):
    rows = table()
    pieces = pa.concat_tables([rows.slice(0, 1), rows.slice(1)])
    for name, content in (("a", rows), ("b", pieces)):
        write_part(store, name, content, {"raylatent.unit": "1"})
    assert store.read("a") == store.read("b")


def test_a_part_without_a_seal_is_refused(store):
    """Its pages and columns may be whole."""
    write_part(store, "p.parquet", table(), {schema.FOOTER_UNIT: "0"})
    with pytest.raises(BrokenPartError, match="no column 'nope'") as caught:
        check_part(store, "p.parquet", ["nope"])
    assert caught.value.why == "it has no column 'nope'"
    part = check_part(store, "p.parquet", ["tile_index"])
    assert part.table.column_names == ["tile_index"]
    kept = {k: v for k, v in part.footer.items() if k != schema.FOOTER_SEAL}
    path = Path(store.path("p.parquet"))
    pq.write_table(
        table().replace_schema_metadata(kept), path, write_page_checksum=True
    )
    with pytest.raises(BrokenPartError, match="its bytes are not those"):
        check_part(store, "p.parquet")


def test_a_seal_does_not_bind_the_reader(tmp_path):
    """Any reader of Parquet reads a sealed file, a long footer or not."""
    wide = pa.table({f"column {i}": [i] for i in range(2000)})
    data = sealed_parquet(wide, level=3)
    assert seal_of(memoryview(data)) == seal_in(bytes(data)) is not None
    assert pq.read_table(pa.BufferReader(data)).equals(wide)


def test_sealed_json():
    about = sealed_json({"b": [1, 2.5, None], "a": {"é": "✓"}})
    again = json.loads(json.dumps(about, indent=1, ensure_ascii=False))
    assert json_holds(again)
    assert sealed_json(again) == about
    assert json_holds({**again, "b": []}) is False
    assert not json_holds({"b": 1})


def test_no_flip_in_a_run_survives(made, verify_here):
    """One bit at a time, at seeded places of every file of a run."""
    assert not verify_here(made.out).findings
    rng = random.Random(7)  # noqa: S311
    files = sorted(file for file in made.out.rglob("*") if file.is_file())
    of_page = {".css", ".dzi", ".html", ".jpg", ".js"}
    of_run = {".parquet", ".json", ".npz", ".png"}
    assert {file.suffix for file in files} == of_page | of_run
    parts = [file for file in files if file.suffix == ".parquet"]
    chosen = [rng.choice(parts) for _ in range(N_FLIPS)] + 2 * files
    unnoticed = []
    for file in chosen:
        good = file.read_bytes()
        bit = rng.randrange(8 * len(good))
        flip(file, bit)
        named = {finding.name for finding in verify_here(made.out).findings}
        name = file.relative_to(made.out).as_posix()
        if name not in named and not harmless(file, good):
            unnoticed.append((name, bit))
        file.write_bytes(good)
    assert not unnoticed
    assert not verify_here(made.out).findings


def harmless(file, good):
    """Whether JSON says the same as before: 1e-05 is 1E-05."""
    if file.suffix != ".json":
        return False
    try:
        return json.loads(file.read_bytes()) == json.loads(good)
    except ValueError:
        return False


def test_what_was_set_aside_is_checked_as_well(made, verify_here):
    removed = made.out / "removed" / "activations" / "slide=c"
    removed.mkdir(parents=True)
    shutil.copy(made.out / "activations/slide=c/000000.parquet", removed)
    put_run_manifest(RunDirectory(str(made.out)), {})
    assert not verify_here(made.out).findings
    flip(removed / "000000.parquet", 8 * 100)
    (finding,) = verify_here(made.out).findings
    assert finding.name == "removed/activations/slide=c/000000.parquet"


def test_parts_of_nobody_that_were_set_aside_are_no_finding(made, verify_here):
    """A run that was mended is sound, with what was taken out of it."""
    ghost = made.out / "removed" / "activations" / "slide=ghost"
    shutil.copytree(made.out / "activations/slide=a", ghost)
    (made.out / "manifest/activations.parquet").unlink()
    assert verify_here(made.out).findings == []
    flip(ghost / "000000.parquet", 8 * 100)
    (finding,) = verify_here(made.out).findings
    assert finding.name == "removed/activations/slide=ghost/000000.parquet"
