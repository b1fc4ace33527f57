"""Pictures of a map in its folder, and small multiples."""

import re

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from raylatent import schema
from raylatent.errors import MapError
from raylatent.mapping import plot
from raylatent.mapping.density import Labels, binned, coarser, density, extent_by, means
from raylatent.mapping.labels import OKABE_ITO
from raylatent.parts import part_name, read_part, write_part
from raylatent.slide_map import SlideMap
from raylatent.storage import Store
from raylatent.stored import map_pictures
from raylatent.stored.map_pictures import (
    TileLabels,
    _numbers,
    labels_on_map,
    save_picture,
    save_pictures,
    save_stored_map,
)
from tests.stored_maps import write_map, write_run

ROWS = {"a": 30, "b": 20}


@pytest.fixture
def store(tmp_path):
    """A map's folder."""
    return Store(write_map(*write_run(tmp_path / "run", ROWS)))


def pictures(store):
    return {name for name in store.list("") if name.startswith("umap")}


def test_labels_of_no_slide_on_the_map_color_nothing(store, caplog):
    made = save_pictures(store, {"gone": "x"}, n_points=50)
    assert made == ([], [f"{store.uri}/umap.png"])
    assert pictures(store) == {"umap.png"}
    assert "no slide that has a label has tiles" in caplog.text
    assert labels_on_map(["a", "b"], {"b": "x"}) == {"b": "x"}
    assert labels_on_map(["a", "b"], None) is None


def test_pictures_of_an_earlier_drawing_do_not_stay(store):
    save_pictures(store, {"a": "x", "b": "y"}, n_points=50, kinds=["png", "svg"])
    assert pictures(store) == {
        *("umap.png", "umap.svg"),
        *("umap_by_label.png", "umap_by_label.svg"),
    }
    save_pictures(store, {"a": "x", "b": "y"}, n_points=50)
    assert pictures(store) == {"umap.png", "umap_by_label.png"}
    save_pictures(store, {"a": "x", "b": "x"}, n_points=50)  # a panel would show all
    assert pictures(store) == {"umap.png"}
    save_pictures(store, {"a": "x", "b": "y"}, n_points=50)
    save_pictures(store, None, n_points=50)
    assert pictures(store) == {"umap.png"}


def test_many_numbers_are_on_a_scale_and_not_each_by_itself(tmp_path, caplog):
    caplog.set_level("INFO")
    slides = [f"s{i:02}" for i in range(20)]
    store = Store(write_map(*write_run(tmp_path / "run", dict.fromkeys(slides, 10))))
    numbers = {slide: str(40 + i) for i, slide in enumerate(slides[:-1])}
    by_label, paths = save_pictures(store, numbers, n_points=200)
    assert (by_label, len(paths)) == ([], 1)
    assert "labels are numbers: they are drawn on a scale" in caplog.text
    given = {**numbers, "elsewhere": "999"}
    counted = means(_numbers(store, given))
    assert counted.counts.sum() == 200
    assert counted.labeled.sum() == 190
    assert counted.ends == (40.0, 58.0)
    assert counted.total.sum() == sum(10 * float(n) for n in numbers.values())
    few, many = tmp_path / "few.svg", tmp_path / "many.svg"
    for path, n_points in ((few, 200), (many, 300_000)):
        save_stored_map(store, [str(path)], numbers, n_points=n_points)
    texts = [re.findall(r">([^<>]+)</text>", p.read_text()) for p in (few, many)]
    assert texts[0] == texts[1]
    assert "(no label)" in texts[0]


@pytest.mark.parametrize("labels", [{"a": "1", "b": "2"}, {"a": "1"}])
@pytest.mark.parametrize("max_dots", [10, 1000])
def test_numbers_as_labels_are_words(store, monkeypatch, labels, max_dots):
    """However many points there are, and whether or not all have a label."""
    monkeypatch.setattr(plot, "MAX_DOTS", max_dots)
    path = f"{store.uri}/umap.svg"
    save_stored_map(store, [path], labels, n_points=50)
    texts = re.findall(r">([^<>]+)</text>", store.read("umap.svg").decode())
    no_label = ["(no label)"] if "b" not in labels else []
    assert texts[-len(labels) - len(no_label) :] == [*labels.values(), *no_label]


def with_tile_labels(tmp_path, names):
    """A map whose tiles have these labels of their own, in turn; its folder."""
    run, points = write_run(tmp_path / "run", ROWS)
    for slide, table in points.items():
        own = pa.array([names[i % len(names)] for i in range(len(table))], pa.string())
        at = table.column_names.index("label")
        points[slide] = table.set_column(at, table.schema.field("label"), own)
    return Store(write_map(run, points))


@pytest.mark.parametrize("max_dots", [10, 1000])
@pytest.mark.parametrize(
    "names", [["p", "q"], ["p", None], [str(n) for n in range(40, 55)]]
)
def test_labels_of_tiles_color_dots_and_counts(tmp_path, monkeypatch, names, max_dots):
    monkeypatch.setattr(plot, "MAX_DOTS", max_dots)
    store = with_tile_labels(tmp_path, names)
    labels = TileLabels.of(store)
    assert labels.names == sorted({*names} - {None})
    by_label, _ = save_pictures(store, labels, n_points=50, kinds=["svg"])
    texts = re.findall(r">([^<>]+)</text>", store.read("umap.svg").decode())
    several = len({*names} - {None}) == 2
    assert bool(by_label) == several
    assert ("(no label)" in texts) == (None in names)
    if by_label:
        assert {*names} - {None} <= {*texts}
    elif len(names) > 2:  # a scale, of which the same ends are told
        counted = means(_numbers(store, labels))
        assert counted.ends == (40.0, 54.0)
        own = [float(names[i % 15]) for n in ROWS.values() for i in range(n)]
        assert counted.total.sum() == sum(own)
        assert counted.labeled.sum() == 50


def test_a_place_that_is_not_finite_is_refused_beside_labels(tmp_path, monkeypatch):
    monkeypatch.setattr(plot, "MAX_DOTS", 10)
    store = with_tile_labels(tmp_path, "pq")
    name = part_name("points", "b", 0)
    table = read_part(store, name, schema.POINTS.names)
    at = table.column_names.index("x")
    nan = pa.array(np.full(len(table), np.nan, np.float32))
    write_part(store, name, table.set_column(at, table.schema.field("x"), nan), {})
    with pytest.raises(MapError, match=r"slide=b/000000\.parquet has points without"):
        save_pictures(store, TileLabels.of(store), n_points=50)


def test_too_many_labels_of_tiles_color_nothing(tmp_path, monkeypatch, caplog):
    store = with_tile_labels(tmp_path, [f"t{i}" for i in range(30)])
    assert len(TileLabels.of(store).names) == 30
    monkeypatch.setattr(map_pictures, "MOST_LABELS", 29)
    assert TileLabels.of(store) is None
    assert "labels of their own, which are drawn in no colors" in caplog.text


def some(seed=0, n=500, n_labels=3):
    """Places (n, 2) and a label or None for each."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(n_labels + 1, size=n)
    xy = rng.normal(size=(n, 2)) + codes[:, None]
    return xy, [None if code == 0 else f"label {code}" for code in codes]


def counted(xy, labels, cuts=()):
    pieces = [
        piece for piece in np.split(np.arange(len(xy)), sorted(cuts)) if len(piece)
    ]
    parts = [(xy[p], Labels.of(labels[i] for i in p)) for p in pieces]
    return density(lambda: parts)


@settings(max_examples=15)  # 64 labels are 136 MB
@given(
    seed=st.integers(0, 99),
    cuts=st.lists(st.integers(0, 500), max_size=4),
    n_labels=st.sampled_from([1, 3, 70]),
)
def test_counts_of_parts_are_those_of_the_whole(seed, cuts, n_labels):
    xy, labels = some(seed, n_labels=n_labels)
    found = counted(xy, labels, cuts)
    np.testing.assert_array_equal(found.counts, binned(xy)[0])
    n_names = len(set(labels) - {None})
    assert len(found.by_label) == min(n_names, 64)
    rest = 0
    for name in set(labels) - {None}:
        own = binned(xy[[label == name for label in labels]], None, found.extent)[0]
        if name in found.by_label:
            np.testing.assert_array_equal(found.by_label[name], own)
        else:
            rest = rest + own
    assert found.n_others == max(0, n_names - 64)
    if found.n_others:
        np.testing.assert_array_equal(found.others, rest)


@given(nx=st.integers(1, 20), ny=st.integers(1, 20), factor=st.integers(1, 9))
def test_coarser_cells_hold_the_same_points(nx, ny, factor):
    counts = np.random.default_rng(nx).integers(0, 9, (nx, ny)).astype(float)
    small = coarser(counts, factor)
    assert small.sum() == counts.sum()
    assert small[0, 0] == counts[:factor, :factor].sum()
    left, right, bottom, top = extent_by(
        (1.0, 1.0 + nx, 2.0, 2.0 + ny), (nx, ny), factor
    )
    assert (left, bottom) == (1.0, 2.0)
    assert right - left == pytest.approx(small.shape[0] * factor)
    assert top - bottom == pytest.approx(small.shape[1] * factor)


def test_texts_and_axes_are_vectors(tmp_path):
    save_picture(str(tmp_path / "by.svg"), plot.multiples_file, counted(*some()))
    svg = (tmp_path / "by.svg").read_text()
    texts = re.findall(r">([^<>]+)</text>", svg)
    for name in ("label 1", "label 2", "label 3"):
        assert name in texts
    n = sum(label == "label 2" for label in some()[1])
    assert f"{n} tiles, {n / 5:.1f} %" in texts
    assert svg.count('id="axes_') == 4  # and the color bar
    save_picture(str(tmp_path / "by.pdf"), plot.multiples_file, counted(*some()))
    assert (tmp_path / "by.pdf").read_bytes().startswith(b"%PDF")


def test_many_labels_are_not_all_shown(tmp_path):
    save_picture(
        str(tmp_path / "by.svg"),
        plot.multiples_file,
        counted(*some(n=2000, n_labels=40)),
    )
    svg = (tmp_path / "by.svg").read_text()
    assert "+16 labels of fewer tiles" in svg
    assert len(re.findall(r">label \d+</text>", svg)) == 24


def test_a_label_with_dollars_is_no_formula(tmp_path):
    xy, labels = some(n=100)
    odd = ["$x_$ <&" if label else None for label in labels]
    save_picture(str(tmp_path / "by.svg"), plot.multiples_file, counted(xy, odd))
    assert "$x_$ &lt;&amp;" in (tmp_path / "by.svg").read_text()


def test_of_a_slide_map(tmp_path):
    xy, _ = some(n=60)
    slide_map = SlideMap.from_xy(xy[:, 0], xy[:, 1], ["a", "b", "c"] * 20)
    with pytest.raises(MapError, match="label it first"):
        slide_map.save_by_label(tmp_path / "by.png")
    slide_map.label_by_slide({"a": "tumor", "b": 3})
    slide_map.save_by_label(tmp_path / "by.png", dpi=60)
    with Image.open(tmp_path / "by.png") as image:
        assert image.width > image.height
    slide_map.data["label"] = np.arange(60) / 7
    with pytest.raises(MapError, match="numbers on a scale"):
        slide_map.save_by_label(tmp_path / "by.png")
    slide_map.data["label"] = None
    with pytest.raises(MapError, match="no point has a label"):
        slide_map.save_by_label(tmp_path / "by.png")


def test_points_at_one_place(tmp_path):
    save_picture(
        str(tmp_path / "by.png"),
        plot.multiples_file,
        counted(np.ones((3, 2)), ["a", "a", "b"]),
    )
    assert (tmp_path / "by.png").stat().st_size > 0


@pytest.mark.parametrize("place", [1e9, -3e7])
def test_points_at_one_place_far_out(tmp_path, place):
    xy = np.full((3, 2), place)
    found = counted(xy, ["a", "a", "b"])
    assert found.by_label["a"].sum() == 2
    save_picture(str(tmp_path / "by.png"), plot.multiples_file, found)
    assert (tmp_path / "by.png").stat().st_size > 0


def colors_in(store, name):
    return set(re.findall("#[0-9a-f]{6}", store.read(name).decode()))


def test_few_tiles_are_dots_in_their_labels_colors(store, monkeypatch):
    labels = {"a": "x", "b": "y"}
    both = {color.lower() for color in OKABE_ITO[:2]}
    save_pictures(store, labels, n_points=50, kinds=["svg"])
    texts = store.read("umap_by_label.svg").decode()
    assert both <= colors_in(store, "umap_by_label.svg")
    assert "tiles of the label" not in texts  # no scale of counts
    assert texts.count("<use") > 100  # each tile in both panels
    monkeypatch.setattr(plot, "FEW_DOTS", 10)
    save_pictures(store, labels, n_points=50, kinds=["svg"])
    assert "tiles of the label" in store.read("umap_by_label.svg").decode()


def test_a_map_without_labels_is_colored_by_slide(store, monkeypatch):
    made = save_pictures(store, None, n_points=50, kinds=["svg"])
    assert made == ([], [f"{store.uri}/umap.svg"])
    texts = re.findall(r">([^<>]+)</text>", store.read("umap.svg").decode())
    assert {"a", "b"} <= {*texts}
    assert {color.lower() for color in OKABE_ITO[:2]} <= colors_in(store, "umap.svg")
    monkeypatch.setattr(map_pictures, "MOST_ENTRIES", 1)  # too many slides to tell
    save_pictures(store, None, n_points=50, kinds=["svg"])
    assert OKABE_ITO[1].lower() not in colors_in(store, "umap.svg")
