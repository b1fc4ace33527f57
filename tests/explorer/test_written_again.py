"""When a page is written again, and when the one that is there stays."""

import json

from raylatent.config import ExploreConfig
from raylatent.engine import explore
from raylatent.explorer import folder
from raylatent.explorer.named_regions import put_regions
from raylatent.explorer.polygon import read_polygons
from raylatent.map_job import run_explore
from raylatent.slide_map import SlideMap
from raylatent.stored.map_points import StoredPoints
from tests.explorer.explored_runs import (
    CELL_PX,
    annotations,
    explored,
    run_of_slides,
)
from tests.explorer.selected_runs import regions_file
from tests.explorer.test_folder import SLIDES, meta_of


def test_a_page_of_the_same_is_not_written_again(tmp_path, monkeypatch):
    run, _ = run_of_slides(tmp_path, {"a": 30, "b": 20})
    page = tmp_path / "page"
    about = {"run": run.uri, "out": str(page), "explorer_cell_px": CELL_PX}
    table = annotations(tmp_path / "a.csv", ["a", "b"])
    labeled = {**about, "annotations": table, "label": "kind"}
    built = []
    real = explore.build_explorer

    def counted(*args):
        built.append(args[1])
        return real(*args)

    monkeypatch.setattr(
        explore, "spread", lambda work, calls, **_: (work(*c) for c in calls)
    )
    monkeypatch.setattr(explore, "build_explorer", counted)

    def written(more):
        built.clear()
        run_explore(ExploreConfig(**more), anew=False)
        return len(built)

    assert [written(about), written(about)] == [1, 0]
    assert [written(labeled), written(labeled), written(about)] == [1, 0, 1]
    regions = regions_file(tmp_path / "r.json", run, left=[[[-9, -9], [0, -9], [0, 9]]])
    stored = StoredPoints(f"{run.uri}/maps/default", run)
    put_regions(stored, read_polygons(str(regions)), str(regions))
    assert [written(about), written(about)] == [1, 0]
    # Another release, a page that was killed half-way, and one with a tile that could not be read.
    with monkeypatch.context() as patch:
        patch.setattr(folder, "library_versions", lambda _: {"raylatent": "9"})
        assert [written(about), written(about)] == [1, 0]
    assert [written(about), written(about)] == [1, 0]
    for name in ("index.html", "data/meta.js"):
        (page / name).unlink()
        assert [written(about), written(about)] == [1, 0]
    facts = json.loads((page / "explorer.json").read_text())
    (page / "explorer.json").write_text(json.dumps({**facts, "failed": 1}))
    assert written(about) == 1


def test_names_come_back_only_where_they_are_asked_for(tmp_path, monkeypatch, caplog):
    run, _ = run_of_slides(tmp_path, SLIDES)
    page = tmp_path / "run" / "explorer" / "default"
    explored(run, page, monkeypatch, pseudonymise=True)
    before = (page / "data/meta.js").read_bytes()
    table = annotations(tmp_path / "a.csv", SLIDES)
    other = ExploreConfig(run=run.uri, annotations=table, label="kind")
    assert run_explore(other, anew=False)[0] == f"{page}/index.html"
    slide_map = SlideMap.load(f"{run.uri}/maps/default")
    slide_map.explore(annotations=table, label="kind", show=False)
    assert (page / "data/meta.js").read_bytes() == before
    assert caplog.text.count("which stays as it is") == 2
    assert f"`raylatent explore {run.uri}`" in caplog.text
    (page / "explorer.json").write_text('{"maps": [], "pseudonyms": true}')  # killed
    assert run_explore(other, anew=False)[1]["pseudonyms"]
    assert "their names from now on" not in caplog.text
    explored(run, page, monkeypatch)
    assert "their names from now on" in caplog.text
    assert meta_of(page)["slides"][0]["name"] == "patient-alpha"


def test_what_changes_while_a_page_is_written_is_on_the_next(tmp_path, monkeypatch):
    run, _ = run_of_slides(tmp_path, {"a": 30})
    regions = regions_file(tmp_path / "r.json", run, left=[[[-9, -9], [0, -9], [0, 9]]])
    real, stored = explore.draw_pictures, StoredPoints(f"{run.uri}/maps/default", run)

    def named(*args):
        put_regions(stored, read_polygons(str(regions)), str(regions))
        return real(*args)

    with monkeypatch.context() as patch:
        patch.setattr(explore, "draw_pictures", named)
        first = explored(run, tmp_path / "page", monkeypatch)
    config = ExploreConfig(
        run=run.uri, out=str(tmp_path / "page"), explorer_cell_px=CELL_PX
    )
    assert run_explore(config, anew=False)[1]["request"] != first["request"]
    assert meta_of(tmp_path / "page")["labels"]["names"] == ["left"]
    hidden = explored(run, tmp_path / "hidden", monkeypatch, pseudonymise=True)
    assert hidden["request"] is None
