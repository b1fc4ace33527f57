"""Placing on the cluster is placing by the plain loop, and a map is kept or replaced."""

import json
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raylatent import schema
from raylatent.claim import Claim
from raylatent.engine import map_building, map_rows
from raylatent.engine.map_building import build_map
from raylatent.engine.map_rows import place_part, place_rows, together
from raylatent.errors import ClaimError, MapError, RunError
from raylatent.mapping.sample import finish
from raylatent.mapping.umap_learn import MapParameters
from raylatent.parts import part_name, read_footer, read_part
from raylatent.run import Part, RunDirectory
from raylatent.stored.maps import load_map

pytestmark = [pytest.mark.ray]

PARAMETERS = MapParameters.of(n_neighbors=8, n_epochs=20, sample=60)


@pytest.fixture
def source(tmp_path, tiles, write_slide):
    folder = tmp_path / "tfrecords"
    folder.mkdir()
    write_slide(folder, "a", tiles)
    write_slide(folder, "b", tiles[:30], bad={3})
    return folder


@pytest.fixture
def out(tmp_path, source, compute, in_process):
    """A run of 93 rows in 6 parts."""
    compute(tmp_path / "run", [source])
    return tmp_path / "run"


@pytest.fixture
def real_stream(monkeypatch, in_process):
    """After `in_process`: Ray's own actors again."""
    from raylatent.engine.stream import stream

    monkeypatch.setattr(map_rows, "stream", stream)


def points_of(out, parts):
    store = RunDirectory.open(str(out)).store
    return {
        part.name: read_part(
            store, part_name("maps/default/points", part.slide, part.unit)
        ).replace_schema_metadata(None)
        for part in parts
    }


def test_placing_with_one_and_four_actors_is_the_plain_loop(
    out, real_stream, monkeypatch
):
    run = RunDirectory.open(str(build_map_in_driver(out, monkeypatch)))
    parts = run.footers()
    fitted = load_map(run.store.child("maps/default"))
    expected = {
        part.name: place_part(
            read_part(run.store, part.name), fitted, "postconv", part.slide
        )[0]
        for part in parts
    }
    assert sum(map(len, expected.values())) == 93
    share_of = map_rows.pool
    for n_actors in (1, 4):
        run.store.delete_folder("maps/default/points")
        monkeypatch.setattr(
            map_rows,
            "pool",
            lambda actors, gpus, n=n_actors: replace(
                share_of((n, n), gpus), num_cpus=0.2
            ),
        )
        with Claim(run.store, run.store.writer):
            counts, digests = place_rows(
                run, parts, fitted, layer="postconv", name="default"
            )
        assert counts["rows"] == 93
        seals = {n: read_footer(run.store, n)[1][schema.FOOTER_SEAL] for n in digests}
        assert digests == seals
        assert len(digests) == len(parts)
        stored = points_of(out, parts)
        for name, points in expected.items():
            assert stored[name].equals(points), (n_actors, name)


def build_map_in_driver(out, monkeypatch):
    """A map, its rows placed in this process."""
    with monkeypatch.context() as patch:
        patch.setattr(map_rows, "stream", here)
        build_map(str(out), PARAMETERS)
    return out


def here(name, items, actor, arguments, share, **options):
    worker = actor(*arguments)
    for item in items:
        yield from worker(item).to_pylist()


def test_a_map_is_reopened_replaced_and_made_again(
    out, source, tiles, write_slide, compute, monkeypatch
):
    fits = []
    fit_map = map_building.fit_map

    def counted(features, params, *more):
        fits.append(len(features))
        return fit_map(features, params, *more)

    monkeypatch.setattr(map_building, "fit_map", counted)
    folder = build_map(str(out), PARAMETERS)
    assert fits == [60]
    info = json.loads((out / "maps/default/map.json").read_text())
    assert info["layer"] == "postconv"
    assert info["points"]["rows"] == 93

    # The same arguments: it is opened.
    assert build_map(str(out), PARAMETERS) == folder
    assert fits == [60]

    # Others: it is replaced. Under another name: it stays.
    build_map(str(out), replace(PARAMETERS, sample=50))
    build_map(str(out), PARAMETERS, name="other")
    assert fits == [60, 50, 60]
    found = {
        name: json.loads((out / "maps" / name / "map.json").read_text())["parameters"]
        for name in ("default", "other")
    }
    assert found["default"]["sample"] == 50
    assert found["other"]["sample"] == 60

    # Rows were added: what is there is of other rows.
    write_slide(source, "c", tiles[:7])
    compute(out, [source])
    build_map(str(out), PARAMETERS, name="other")
    assert len(fits) == 4
    run = RunDirectory.open(str(out))
    parts = run.footers()
    assert len(parts) == 7
    names = set(run.store.list("maps/other/points"))
    assert names == {part_name("maps/other/points", p.slide, p.unit) for p in parts}


def test_killed_before_map_json_it_is_made_again(out, monkeypatch):
    def killed(store, fitted):
        raise KeyboardInterrupt

    build_map(str(out), replace(PARAMETERS, sample=50))
    with monkeypatch.context() as patch:
        patch.setattr(map_building, "save_map", killed)
        with pytest.raises(KeyboardInterrupt):
            build_map(str(out), PARAMETERS)
    assert not (out / "maps/default/map.json").exists()
    assert not (out / "claim.json").exists()
    (out / "maps/default/points/.dead-1.aside").write_bytes(b"litter")
    build_map(str(out), PARAMETERS)
    info = json.loads((out / "maps/default/map.json").read_text())
    assert info["parameters"]["sample"] == 60
    assert not list(out.rglob("*.aside"))


def test_a_fit_that_fails_leaves_the_old_map(out, monkeypatch):
    def fail(features, params, *more):
        message = "cannot be fitted"
        raise MapError(message)

    build_map(str(out), PARAMETERS)
    before = (out / "maps/default/map.json").read_bytes()
    monkeypatch.setattr(map_building, "fit_map", fail)
    with pytest.raises(MapError, match="cannot be fitted"):
        build_map(str(out), replace(PARAMETERS, sample=50))
    assert (out / "maps/default/map.json").read_bytes() == before


def test_what_cannot_be_mapped_is_refused(tmp_path, out):
    with pytest.raises(RunError, match=r"run\.json"):
        build_map(str(tmp_path / "nothing"), PARAMETERS)
    with pytest.raises(MapError, match="no layer 'conv9': it has postconv"):
        build_map(str(out), PARAMETERS, layer="conv9")
    run = RunDirectory(str(out))
    with Claim(run.store, "other"), pytest.raises(ClaimError):
        build_map(str(out), PARAMETERS)


@given(st.lists(st.integers(1, 50_000), max_size=60), st.integers(1, 20))
def test_parts_go_together_in_order(sizes, n_actors):
    parts = [
        Part(slide="a", unit=i, name=f"{i}", rows=n, footer={})
        for i, n in enumerate(sizes)
    ]
    items = together(parts, n_actors)
    assert [part for some in items for part in some] == parts
    most = min(1 << 15, sum(sizes) // (4 * n_actors))
    for some in items:
        assert len(some) == 1 or sum(part.rows for part in some) <= most
    for some, following in pairwise(items):  # none is smaller than it needs to be
        assert sum(part.rows for part in (*some, following[0])) > most


def test_a_stream_item_may_hold_several_parts(out, in_process, monkeypatch):
    """However parts are put together, the points are the same."""
    expected = {}
    share = map_rows.pool(None, 0)
    for n_actors in (1, 100):
        monkeypatch.setattr(map_rows, "_ITEMS_EACH", 1)
        monkeypatch.setattr(
            map_rows, "pool", lambda *_, n=n_actors: replace(share, largest=n)
        )
        seen = []

        def counted(name, items, *rest, seen=seen, **options):
            seen += items
            yield from here(name, items, *rest, **options)

        monkeypatch.setattr(map_rows, "stream", counted)
        build_map(str(out), PARAMETERS)
        parts = RunDirectory.open(str(out)).footers()
        assert len(seen) == {1: 1, 100: len(parts)}[n_actors]
        expected[n_actors] = points_of(out, parts)
        RunDirectory(str(out)).store.delete_folder("maps")
    for name, points in expected[1].items():
        assert points.equals(expected[100][name])


@pytest.mark.parametrize("size", [1, 2, 64])
def test_a_sketch_does_not_depend_on_how_parts_are_merged(out, monkeypatch, size):
    run = RunDirectory.open(str(out))
    parts = run.footers()
    whole = map_rows.sketch_parts(run.store, parts, 3, 20)
    monkeypatch.setattr(map_rows, "_PARTS_TOGETHER", size)
    found = map_rows.sketch_parts(run.store, parts, 3, 20)
    assert finish(found, 20).equals(finish(whole, 20))
