"""Pictures of a map in its folder, by labels that its slides may lack."""

import re

import pytest

from raylatent.mapping import plot
from raylatent.mapping.density import means
from raylatent.mapping.pictures import (
    _blocks,
    labels_on_map,
    save_pictures,
    save_stored_map,
)
from raylatent.storage import Store
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
    save_pictures(store, {"a": "x"}, n_points=50, kinds=["png", "svg"])
    assert pictures(store) == {
        *("umap.png", "umap.svg"),
        *("umap_by_label.png", "umap_by_label.svg"),
    }
    save_pictures(store, {"a": "x"}, n_points=50)
    assert pictures(store) == {"umap.png", "umap_by_label.png"}
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
    number_of = {text: float(text) for text in given.values()}
    counted = means(_blocks(store, given), number_of)
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
