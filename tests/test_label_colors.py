"""A label has one color in all pictures of a map, however many are left out of each."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_hex

from raylatent.mapping import plot
from raylatent.mapping.labels import category_colors, colors_by_name
from raylatent.mosaic import Mosaic
from raylatent.slide_map import SlideMap


def sizes(n, rare):
    return [1] * rare + [20] * (n - rare)


@pytest.fixture(params=[(20, 0), (30, 1), (70, 6)], ids=str)
def labels(request):
    """Some labels of one point each, others of more."""
    n, rare = request.param
    pairs = enumerate(sizes(n, rare))
    return [f"L{i:03d}" for i, size in pairs for _ in range(size)]


@pytest.fixture
def slide_map(labels):
    xy = np.random.default_rng(0).random((len(labels), 2))
    made = SlideMap.from_xy(xy[:, 0], xy[:, 1], ["s"] * len(labels))
    made.data["label"] = labels
    return made


def legend_of(ax):
    handles = zip(ax.get_legend().legend_handles, ax.get_legend().texts, strict=True)
    colors = {}
    for handle, text in handles:
        if text.get_text().startswith("L"):
            color = getattr(handle, "get_facecolor", None) or handle.get_color
            colors[text.get_text()] = to_hex(color()).upper()
    return colors


@pytest.mark.parametrize("style", [{}, {"max_dots": 50}, {"subsample": 30}], ids=str)
def test_of_a_plot(slide_map, labels, style):
    found = legend_of(slide_map.plot(**style))
    plt.close("all")
    assert found
    assert found.items() <= colors_by_name(labels).items()


def test_of_small_multiples(slide_map, labels, tmp_path, monkeypatch):
    def kept(path, draw, dpi, inches):
        figure = plt.figure()
        draw(figure)
        for ax in figure.axes:
            name = ax.get_title(loc="left").strip()
            if name:
                found[name] = to_hex(ax.spines["left"].get_edgecolor()).upper()
        plt.close("all")
        return b""

    found = {}
    monkeypatch.setattr(plot, "figure_file", kept)
    slide_map.save_by_label(tmp_path / "by.png")
    assert len(found) == min(24, len(set(labels)))
    assert found.items() <= colors_by_name(labels).items()


def test_of_a_mosaic(slide_map, labels):
    pixels = [np.zeros((4, 4, 3), np.uint8)] * len(labels)
    xy = np.stack([slide_map.x, slide_map.y], axis=1)
    for max_dist in (None, 0.1):  # which leaves labels out
        mosaic = Mosaic(pixels, xy, num_tiles_x=5, labels=labels, max_dist=max_dist)
        found = legend_of(mosaic.plot())
        plt.close("all")
        assert len(found) > 1
        assert found.items() <= colors_by_name(labels).items()


def test_numbers_and_their_words_have_one_color():
    assert colors_by_name([10, 9, 1]) == colors_by_name(["1", "10", "9"])
    assert list(colors_by_name(range(12)).values()) == category_colors(12)
