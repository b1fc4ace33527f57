"""The whole folder of an explorer: what is alike, and slides that are called otherwise."""

import base64
import csv
import gzip
import io
import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from raylatent import cli, schema
from raylatent.claim import Claim
from raylatent.config import ExploreConfig, ServeConfig
from raylatent.engine import explore
from raylatent.engine.cells import ClusterPoints
from raylatent.errors import ClaimError, ConfigError, MapError, RunError
from raylatent.explorer import pyramid, reach, squares
from raylatent.explorer.folder import OTHER_CLASSES, Told, Wanted
from raylatent.explorer.pseudonyms import give_pseudonyms, read_pseudonyms
from raylatent.explorer.pyramid import SIDE
from raylatent.explorer.server import Explorer
from raylatent.map_job import run_explore
from raylatent.mapping.statistics import nearest_rows
from raylatent.run.layout import is_ours
from raylatent.stable_hash import tile_hash
from raylatent.storage import Store
from raylatent.stored.verification import Verification, read_states
from tests.explorer.explored_runs import (
    annotations,
    explored,
    run_of_slides,
)
from tests.explorer.selected_runs import (
    inside_of,
    polygon_file,
    regions_file,
)
from tests.explorer.test_scripts import read_block
from tests.stored_maps import LAYER, write_map

SLIDES = {"patient-alpha": 40, "patient-beta": 50, "zz=%2 ü": 30}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run, its points by slide, and the folder of its explorer inside of it."""
    folder = tmp_path_factory.mktemp("explored")
    run, points = run_of_slides(folder, SLIDES)
    with pytest.MonkeyPatch.context() as patch:
        table = annotations(folder / "a.csv", SLIDES)
        page = folder / "run" / "explorer" / "default"
        explored(run, page, patch, annotations=table, label="kind")
    return run, points, page


def meta_of(page):
    text = (page / "data/meta.js").read_text()
    return json.loads(text.removeprefix("raylatent.meta(").removesuffix(");\n"))


def test_similar_cells_are_the_nearest_in_activation_space(made):
    run, _, page = made
    level = meta_of(page)["similar"]
    table = pq.read_table(page / "cells.parquet")
    rows = [row for row in table.to_pylist() if row["level"] == level]
    of_slide = {
        slide: schema.vectors(run.read_rows(slide), LAYER).astype(np.float64)
        for slide in SLIDES
    }
    vectors = [of_slide[row["slide"]][row["tile_index"]] for row in rows]
    numbers = [row["row"] * (SIDE << level) + row["col"] for row in rows]
    name, columns = read_block((page / f"data/similar/{level}.js").read_bytes())
    assert name == f"similar/{level}"
    assert columns["cell"].tolist() == sorted(numbers)
    found = {
        cell: [int(columns[f"s{k}"][i]) for k in range(12)]
        for i, cell in enumerate(columns["cell"].tolist())
    }
    for own, vector in zip(numbers, vectors, strict=True):
        away = [
            (float(np.square(other - vector).sum()), number)
            for number, other in zip(numbers, vectors, strict=True)
            if number != own
        ]
        assert found[own] == [number for _, number in sorted(away)[:12]]
    assert level == 6 or len(rows) > 10


def test_few_rows_have_few_neighbors():
    rng = np.random.default_rng(0)
    rows = rng.integers(0, 3, (600, 5)).astype(np.float32)
    found = nearest_rows(rows, 4)
    for i in range(0, 600, 37):
        away = np.square(rows.astype(float) - rows[i]).sum(axis=1)
        away[i] = np.inf
        assert found[i].tolist() == np.argsort(away, kind="stable")[:4].tolist()
    assert nearest_rows(rows[:1], 3).tolist() == [[-1] * 3]
    assert nearest_rows(rows[:0], 3).shape == (0, 3)


@pytest.mark.parametrize(("most", "level"), [(0, None), (60, 0)])
def test_of_many_parts_few_are_read_to_compare_cells(
    made, tmp_path, monkeypatch, most, level
):
    monkeypatch.setattr(explore, "_MOST_PARTS", most)
    run = made[0]
    monkeypatch.setattr(ClusterPoints, "part_names", [("a", "b")] * 61)
    counts = [60, 61, 90]
    found = SimpleNamespace(chosen=[range(n) for n in counts])
    seen = []
    monkeypatch.setattr(explore, "similar_level", lambda *a: seen.append(a[0]))
    points = ClusterPoints(f"{run.uri}/maps/default", run)
    assert explore.similar_cells(points, found) is None
    assert seen == [counts[: 0 if level is None else 1]]


def test_without_activations_the_page_has_no_similar_cells(
    tmp_path, monkeypatch, caplog
):
    run, _ = run_of_slides(tmp_path, {"a": 30}, predictions=False)
    run.store.delete(run.parts("a")[0])
    explored(run, tmp_path / "page", monkeypatch)
    assert meta_of(tmp_path / "page")["similar"] is None
    assert "knows no similar cells" in caplog.text
    assert not (tmp_path / "page/data/similar").exists()


def test_files_are_known_and_listed(made):
    run, _, page = made
    names = [
        f"explorer/default/{p.relative_to(page).as_posix()}"
        for p in page.rglob("*")
        if p.is_file()
    ]
    assert [name for name in names if not is_ours(name)] == []
    listed = run.store.child("manifest")
    assert "explore-default.parquet" in listed.root_files()
    from raylatent.stored.manifest import read_manifest

    files = read_manifest(run.store, "manifest/explore-default.parquet")
    assert set(files) == set(names)
    for state in read_states(run.store, names):
        told = files[state.name]
        assert (state.size, state.digest) == (told.size, told.digest), state.name


@pytest.fixture(scope="module")
def hidden(tmp_path_factory):
    """The same of slides that are called otherwise; and the folder above both."""
    folder = tmp_path_factory.mktemp("patient-alpha")
    run, points = run_of_slides(folder, SLIDES)
    with pytest.MonkeyPatch.context() as patch:
        table = annotations(folder / "a.csv", SLIDES)
        given = {"annotations": table, "label": "kind", "pseudonymise": True}
        patch.setattr(explore.secrets, "randbits", lambda _: 0)  # as of the other page
        page = folder / "run" / "explorer" / "default"
        explored(run, page, patch, keep_columns=("age",), **given)
    return run, points, page


def test_no_byte_has_the_name_of_a_slide(hidden):
    run, _, page = hidden
    secrets = [*SLIDES, "secret", "patient 0", run.uri, "file.tif"]
    told = [secret.encode() for secret in secrets]
    told += [json.dumps(secret)[1:-1].encode() for secret in secrets]
    n_blocks = 0
    for path in page.rglob("*"):
        assert not any(secret in path.name for secret in secrets)
        if path.is_dir() or (path.parent == page and path.suffix in {".js", ".html"}):
            continue
        data = path.read_bytes()
        texts = [data]
        if data.startswith(b"raylatent.block"):
            texts.append(gzip.decompress(base64.b64decode(data.split(b'"')[-2])))
            n_blocks += 1
        if path.suffix == ".parquet":
            texts.append(json.dumps(pq.read_table(path).to_pylist()).encode())
        for text in texts:
            assert not [secret for secret in told if secret in text], path
    assert n_blocks > 10


def test_pseudonyms_are_in_order_and_their_table_is_kept(hidden, monkeypatch):
    run, _, page = hidden
    table = read_pseudonyms(run.store)
    assert set(table) == set(SLIDES)
    meta = meta_of(page)
    names = [slide["name"] for slide in meta["slides"]]
    assert names == sorted(table.values())
    assert len(set(names)) == 3
    own = {shown: slide for slide, shown in table.items()}
    assert [slide["tiles"] for slide in meta["slides"]] == [
        SLIDES[own[name]] for name in names
    ]
    assert [one["name"] for one in meta["annotations"]["columns"]] == ["age"]
    ages = dict(zip(SLIDES, (0.0, 1.0, 2.0), strict=True))
    told = meta["annotations"]["columns"][0]["values"]
    assert told == [ages[own[name]] for name in names]
    assert meta["labels"]["column"] == "kind"
    before = run.store.read("pseudonyms.csv")
    explored(run, page.parent / "again", monkeypatch, pseudonymise=True)
    assert run.store.read("pseudonyms.csv") == before
    assert (page.parents[2] / "run/pseudonyms.csv").is_file()


def test_cells_and_points_are_those_of_the_slides(made, hidden):
    """But for the names all is what the page of true names has."""
    run, _, page = hidden
    own = {shown: slide for slide, shown in read_pseudonyms(run.store).items()}
    pages = []
    for folder, names in ((made[2], {}), (page, own)):
        rows = pq.read_table(folder / "cells.parquet").to_pylist()
        meta = meta_of(folder)
        slides = [names.get(one["name"], one["name"]) for one in meta["slides"]]
        points = set()
        for block in range(len(meta["points"]["blocks"])):
            _, columns = read_block((folder / f"data/points/{block}.js").read_bytes())
            ids = zip(columns["slide"], columns["tile"], columns["x"], strict=True)
            points |= {(slides[slide], int(tile), float(x)) for slide, tile, x in ids}
        cells = {
            (r["level"], r["row"], r["col"]): (
                names.get(r["slide"], r["slide"]),
                *(r[key] for key in ("tile_index", "n", "n_slides", "loc_x", "why")),
                sorted(r["label_counts"]),
            )
            for r in rows
        }
        counted = {}
        _, columns = read_block((folder / "data/slides/0.js").read_bytes())
        for cell, slide, n in zip(*columns.values(), strict=True):
            counted[int(cell), slides[slide]] = int(n)
        hides = {r["source"] for r in rows} | {r["name"] for r in rows}
        assert (hides == {None}) == bool(names)
        pages.append((cells, points, counted))
    assert pages[0] == pages[1]
    for file in (made[2] / "mosaic_files").rglob("*.jpg"):
        same = page / file.relative_to(made[2])
        assert same.read_bytes() == file.read_bytes()


def test_thumbnails_are_pixels_alone(made, hidden):
    assert b"patient-alpha" in (made[2] / "slides/0.jpg").read_bytes()
    for picture in (hidden[2] / "slides").iterdir():
        data = picture.read_bytes()
        assert b"Exif" not in data
        assert b"\xff\xfe" not in data[:200]


def test_the_server_and_select_translate_back(hidden, tmp_path):
    run, points, page = hidden
    table = read_pseudonyms(run.store)
    explorers = Explorer(ServeConfig(run=run.uri))
    names = [one["name"] for one in meta_of(page)["slides"]]
    assert [table[slide] for slide in explorers.slides] == names
    body = polygon_file(tmp_path / "p.json", run).read_bytes()
    told = json.loads(explorers.answer("/members", body).body)
    expected = inside_of(points)
    assert [tuple(row[:2]) for row in told["rows"]] == sorted(
        (table[slide], row["tile_index"]) for slide, row in expected
    )
    out = tmp_path / "s.csv"
    words = ["select", run.uri, str(tmp_path / "p.json"), "--out", str(out)]
    assert cli.main(words) == 0
    with out.open(newline="", encoding="utf-8") as file:
        assert [row["slide"] for row in csv.DictReader(file)] == [
            s for s, _ in expected
        ]


def test_the_server_draws_deeper_where_slides_have_pseudonyms(
    hidden, tmp_path, monkeypatch
):
    page = tmp_path / "page"
    with monkeypatch.context() as patch:
        patch.setattr(pyramid, "DEEPEST", 3)
        explored(hidden[0], page, patch, pseudonymise=True)
    explorers = Explorer(ServeConfig(run=hidden[0].uri, explorer=str(page)))
    level = meta_of(page)["levels"][-1]["level"]
    dzi, last = level + 1 + 7, (2 << level) - 1  # 8 cells of 16 pixels, a level deeper
    rows = pq.read_table(page / "cells.parquet").to_pylist()
    own = [(r["col"] // 4, last - r["row"] // 4) for r in rows if r["level"] == level]
    for x, y in own[:5]:
        answer = explorers.answer(f"/mosaic_files/{dzi}/{x}_{y}.jpg", b"")
        assert answer.status_code == 200
        with Image.open(io.BytesIO(answer.body)) as picture:
            assert picture.size == (128, 128)  # a white one is small


def test_texts_with_the_name_of_a_slide_are_refused(tmp_path, monkeypatch):
    run, _ = run_of_slides(tmp_path, SLIDES)
    table = annotations(tmp_path / "a.csv", SLIDES)
    given = {"annotations": table, "pseudonymise": True}
    with pytest.raises(
        MapError, match="'patient-alpha secret' has the name of a slide"
    ):
        explored(run, tmp_path / "page", monkeypatch, keep_columns=("secret",), **given)
    assert not (tmp_path / "page/data").exists()
    with pytest.raises(ConfigError, match="--keep-columns none is no column of"):
        run_explore(ExploreConfig(run=run.uri, keep_columns=("none",), **given))
    regions = regions_file(
        tmp_path / "r.json", run, **{"zz=%2 ü, left": [[[0, 0], [9, 0], [0, 9]]]}
    )
    assert cli.main(["label", run.uri, str(regions)]) == 0
    with pytest.raises(MapError, match="zz=%2 ü, left"):
        explored(run, tmp_path / "page", monkeypatch, pseudonymise=True)


def test_names_are_random_and_a_broken_table_is_refused(tmp_path):
    store, other = Store(tmp_path / "a"), Store(tmp_path / "b")
    names = [f"s{i}" for i in range(50)]
    some = give_pseudonyms(store, names)
    assert some != give_pseudonyms(other, names)
    assert sorted(names) != sorted(names, key=some.get)
    more = give_pseudonyms(store, ['a,"b"\n', "s3"])
    assert more["s3"] == some["s3"]
    assert set(read_pseudonyms(store)) == {*names, 'a,"b"\n'}
    assert (tmp_path / "a/pseudonyms.csv").stat().st_mode & 0o777 == 0o600
    with Claim(store, "x" * 8), pytest.raises(ClaimError):
        give_pseudonyms(store, names)
    for rows in ("slide,pseudonym\na,x\nb,x\n", "", "a,x\n", "slide,pseudonym\na\n"):
        store.write("pseudonyms.csv", rows.encode())
        with pytest.raises(RunError, match="put it back"):
            read_pseudonyms(store)


def test_a_sample_of_the_points_is_chosen_by_hash(made, tmp_path, monkeypatch):
    run = made[0]
    monkeypatch.setattr(reach, "SAMPLE_POINTS", 30)
    explored(run, tmp_path / "page", monkeypatch, max_size="4KB")
    meta = meta_of(tmp_path / "page")
    assert meta["points"]["kind"] == "sample"
    names = [slide["name"] for slide in meta["slides"]]
    _, columns = read_block((tmp_path / "page/data/points/0.js").read_bytes())
    found = {
        (names[s], int(t))
        for s, t in zip(columns["slide"], columns["tile"], strict=True)
    }
    most = int(30 / sum(SLIDES.values()) * float((1 << 64) - 2048))
    assert found == {
        (slide, int(tile))
        for slide, n in SLIDES.items()
        for tile in np.flatnonzero(tile_hash(0, slide, np.arange(n)) <= most)
    }
    assert 10 < len(found) == meta["points"]["n"] < 60
    monkeypatch.setattr(reach, "SAMPLE_POINTS", 10**6)
    explored(run, tmp_path / "page", monkeypatch, max_size="4KB")
    assert 60 < meta_of(tmp_path / "page")["points"]["n"] < sum(SLIDES.values())


def test_no_hash_tells_the_names_behind_pseudonyms(made, tmp_path, monkeypatch):
    """Nobody can try out a name: the seed of the sample and of ties is not told."""
    run, _ = run_of_slides(tmp_path, SLIDES)
    monkeypatch.setattr(reach, "SAMPLE_POINTS", 30)
    found = []
    for seed in (1, 2):
        monkeypatch.setattr(explore.secrets, "randbits", lambda _, seed=seed: seed)
        facts = explored(
            run, tmp_path / "page", monkeypatch, max_size="4KB", pseudonymise=True
        )
        _, columns = read_block((tmp_path / "page/data/points/0.js").read_bytes())
        found.append(set(zip(columns["slide"], columns["tile"], strict=True)))
        told = json.loads((tmp_path / "page/explorer.json").read_text())["rule"]
        assert told == facts["rule"]
        assert "seed" not in told
    assert 10 < len(found[0]) < 60
    assert found[0] != found[1]


def test_of_many_classes_the_best_are_told(made, tmp_path, monkeypatch, caplog):
    run = made[0]
    for module in (explore, pyramid):
        monkeypatch.setattr(module, "MOST_CLASSES", 2)
    facts = explored(run, tmp_path / "page", monkeypatch)
    predictions = np.concatenate(
        [schema.vectors(run.read_rows(s), "predictions") for s in sorted(SLIDES)]
    ).astype(np.float64)
    best = int(predictions.mean(axis=0).argmax())
    assert "of 3 classes the page has the 1 with" in caplog.text
    told = [f"class {best}", OTHER_CLASSES]
    assert meta_of(tmp_path / "page")["classes"] == facts["classes"] == told
    others = np.delete(predictions, best, axis=1).max(axis=1)
    table = pq.read_table(tmp_path / "page/cells.parquet").to_pylist()
    rows = [row for row in table if row["level"] == 0]
    n = np.array([row["n"] for row in rows])
    means = np.array([row["predictions_mean"] for row in rows])
    np.testing.assert_allclose(
        n @ means, [predictions[:, best].sum(), others.sum()], rtol=1e-5
    )
    _, columns = read_block((tmp_path / "page/data/points/0.js").read_bytes())
    assert (columns["pred"] == 0).sum() == (predictions[:, best] >= others).sum()


def test_tiles_that_cannot_be_read_are_gray_and_counted(tmp_path, monkeypatch):
    run, _ = run_of_slides(tmp_path, {"a": 30})
    (tmp_path / "file.tif").unlink()
    facts = explored(run, tmp_path / "page", monkeypatch)
    assert facts["failed"] == facts["levels"][-1]["cells"] > 10
    rows = pq.read_table(tmp_path / "page/cells.parquet").to_pylist()
    assert {row["picture"] for row in rows} == {None}


def test_a_rare_label_with_the_name_of_a_slide_is_refused(tmp_path, monkeypatch):
    slides = {f"slide {i:02d} of many": 3 for i in range(30)}
    run, _ = run_of_slides(tmp_path, slides)
    lines = [f"{slide},label {i}" for i, slide in enumerate(slides)]
    lines[-1] = "slide 29 of many,scan of SLIDE 03 OF MANY"
    table = tmp_path / "a.csv"
    table.write_text("\n".join(["slide,kind", *lines]), "utf-8")
    with pytest.raises(MapError, match="scan of SLIDE 03"):
        explored(
            run,
            tmp_path / "page",
            monkeypatch,
            annotations=str(table),
            label="kind",
            pseudonymise=True,
        )


def test_numbers_that_are_the_name_of_a_slide_are_refused(tmp_path, monkeypatch):
    run, _ = run_of_slides(tmp_path, {"1234567": 9, "7": 9})
    for value in ("1234567", "7"):
        table = tmp_path / "a.csv"
        table.write_text(f"slide,case\n1234567,{value}\n7,9\n")
        with pytest.raises(MapError, match=f"'{value}' has the name of a slide"):
            explored(
                run,
                tmp_path / "page",
                monkeypatch,
                annotations=str(table),
                keep_columns=("case",),
                pseudonymise=True,
            )


def test_a_folder_of_something_else_is_left_alone(made, tmp_path, monkeypatch):
    slides = tmp_path / "work" / "slides"
    slides.mkdir(parents=True)
    (slides / "a.svs").write_bytes(b"x")
    for out in (tmp_path / "work", made[0].uri, f"{made[0].uri}/maps/default"):
        with pytest.raises(MapError, match="holds something else than an explorer"):
            explored(made[0], out, monkeypatch)
    assert (slides / "a.svs").read_bytes() == b"x"


def test_what_was_killed_half_way_has_nothing_of_before(tmp_path, monkeypatch):
    run, _ = run_of_slides(tmp_path, SLIDES)
    page = tmp_path / "run" / "explorer" / "default"
    explored(run, page, monkeypatch)
    before = page / "index.html"
    aside = page / f".pid7-{32 * 'a'}.aside"  # of a write that was killed
    aside.write_text("patient-alpha")
    assert before.is_file()

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(squares, "draw_square", killed)
        patch.setattr("raylatent.engine.explore.draw_square", killed)
        with pytest.raises(KeyboardInterrupt):
            explored(run, page, patch, pseudonymise=True)
    assert not aside.exists()
    kept = [p for p in page.rglob("*") if p.is_file()]
    assert not before.exists()
    for file in kept:
        assert not any(name.encode() in file.read_bytes() for name in SLIDES)
    with pytest.raises(MapError, match=r"is of another map|holds no explorer"):
        Explorer(ServeConfig(run=run.uri))
    explored(run, page, monkeypatch, pseudonymise=True)
    assert before.is_file()


def test_the_list_of_maps_has_those_with_a_page(tmp_path, monkeypatch):
    run, points = run_of_slides(tmp_path, {"a": 30})
    for name in ("b", "c"):
        write_map(run, points, name, unit=5)
    pages = tmp_path / "run" / "explorer"
    for name in ("default", "c"):
        explored(run, pages / name, monkeypatch, map=name)
    assert meta_of(pages / "default")["maps"] == [{"name": "default"}]
    assert meta_of(pages / "c")["maps"] == [{"name": "c"}, {"name": "default"}]
    explored(run, tmp_path / "elsewhere", monkeypatch)
    assert meta_of(tmp_path / "elsewhere")["maps"] == []


def test_a_label_that_is_called_as_all_others_is_one_of_its_own(tmp_path, monkeypatch):
    slides = {f"s{i:02d}": 4 if i else 9 for i in range(28)}
    run, _ = run_of_slides(tmp_path, slides)
    lines = [
        f"{s},label {i}" if i else f"{s},(other labels)" for i, s in enumerate(slides)
    ]
    table = tmp_path / "a.csv"
    table.write_text("\n".join(["slide,kind", *lines]))
    explored(run, tmp_path / "page", monkeypatch, annotations=str(table), label="kind")
    told = meta_of(tmp_path / "page")["labels"]
    assert len(set(told["names"])) == len(told["names"]) == len(told["counts"])
    counts = dict(zip(told["names"], told["counts"], strict=True))
    assert counts["(other labels)"] == 9
    assert told["names"][-1] == "((other labels))"
    assert sum(told["counts"]) == sum(slides.values())


def test_what_explorer_json_says_may_be_anything(made):
    run = made[0]
    name = "explorer/default/explorer.json"
    states = {one.name: one for one in read_states(run.store, [name])}
    for maps in (5, "x", [5], {"a": 1}, None):
        about = {**states[name].about, "maps": maps}
        found = Verification(
            run=run.uri, states={name: replace(states[name], about=about)}
        )
        found._compare_pages()
        assert "is not finished" in found.notes[0]


@pytest.mark.parametrize(
    ("column", "ids", "patient"),
    [
        ("patient", [*range(123456789012345670, 123456789012345683), "7", "007"], True),
        ("patient", ["NA", "nan", "n/a", "b", "b"], True),
        ("case", ["case", "control"] * 8, False),
        ("case", [*"aabbccddee"], True),
        ("submitter_id", [*"abcdef", "nan"], True),
        ("submitter_id", [*"aaabbbcccdddeee"], False),
    ],
)
def test_patients_are_words_of_a_column_of_patients(column, ids, patient):
    own = dict(enumerate(map(str, ids)))
    names = SimpleNamespace(slides=[(slide, slide) for slide in own])
    wanted = Wanted(
        map="m",
        annotations={slide: {column: word} for slide, word in own.items()},
        cell_px=16,
        max_bytes=1,
    )
    told = Told(run=None, points=None, found=None, wanted=wanted)
    vars(told)["names"] = names
    found = told._annotations()
    assert found["patient"] == (column if patient else None)
    (one,) = found["columns"]
    assert one["kind"] == "category"
    words = [None if at is None else one["names"][at] for at in one["values"]]
    none = {"NA", "nan", "n/a"}
    assert words == [None if word in none else word for word in own.values()]
