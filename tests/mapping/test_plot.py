import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from PIL import Image

from raylatent.errors import MapError
from raylatent.mapping.density import Labels, binned, density, show_counts
from raylatent.mapping.labels import OKABE_ITO, category_colors
from raylatent.mapping.plot import MapStyle, draw_map, map_file, show_map


def points(n=500, seed=0):
    rng = np.random.default_rng(seed)
    kind = rng.integers(3, size=n)
    return rng.normal(size=(n, 2)) + kind[:, None] * 4, kind


def drawn(xy, labels=None, **style):
    ax = Figure().add_subplot()
    draw_map(ax, xy, labels, MapStyle(**style))
    return ax


def colors_of(ax):
    return {tuple(color) for color in ax.collections[0].get_facecolors().round(3)}


def legend_of(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


@pytest.mark.parametrize("suffix", ["png", "pdf", "svg"])
def test_plots_repeat(suffix):
    import matplotlib.pyplot as plt

    xy, kind = points()
    name = f"map.{suffix}"
    content, again = (map_file(name, xy, kind, MapStyle(), dpi=80) for _ in range(2))
    assert not plt.get_fignums()
    if suffix == "png":
        picture = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
        assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 50
    else:
        assert len(content) > 5000
    if suffix != "svg":  # its ids are random
        assert content == again


def test_other_endings_are_refused():
    with pytest.raises(MapError, match="ends in none"):
        map_file("a.bmp", points()[0], None, MapStyle())


def test_few_categories_have_okabe_and_itos_colors():
    xy, kind = points()
    names = np.array(["c", "a", "b"])[kind]
    ax = drawn(xy, names, title="T", legend="type")
    assert legend_of(ax) == ["a", "b", "c"]
    assert len(colors_of(ax)) == 3
    assert ax.get_title() == "T"
    assert ax.get_legend().get_title().get_text() == "type"
    assert ax.get_aspect() == 1.0


def test_many_categories_are_told_apart_and_the_legend_stays_short():
    assert category_colors(8) == list(OKABE_ITO)
    for n in (9, 40, 120):
        assert len(set(category_colors(n))) == n
    xy, _ = points(600)
    ax = drawn(xy, [f"slide{i % 60:02d}" for i in range(600)])
    entries = legend_of(ax)
    assert len(entries) == 25
    assert entries[-1] == "(36 further labels)"
    assert len(colors_of(ax)) == 60


def test_a_missing_label_is_gray():
    xy, _ = points(10)
    ax = drawn(xy, ["a"] * 9 + [None])
    assert legend_of(ax) == ["a", "(no label)"]
    assert len(colors_of(ax)) == 2


def test_own_colors_by_label():
    xy, _ = points(10)
    ax = drawn(xy, ["a", "b"] * 5, cmap={"a": "red", "b": "blue"})
    assert colors_of(ax) == {(1, 0, 0, 1), (0, 0, 1, 1)}


def test_numbers_have_a_color_bar_and_whole_ones_are_categories():
    xy, kind = points()
    ax = drawn(xy, xy[:, 0])
    assert ax.get_legend() is None
    assert len(ax.figure.axes) == 2
    assert legend_of(drawn(xy, kind)) == ["0", "1", "2"]
    assert drawn(xy, kind, categorical=False).get_legend() is None


def test_words_that_are_numbers_are_drawn_as_numbers_are():
    xy, kind = points()
    ages = np.arange(40, 40 + len(xy))
    for labels in (ages, ages.astype(str), ages.astype(object), ages / 7):
        ax = drawn(xy, labels)
        assert len(ax.figure.axes) == 2
        assert ax.collections[0].get_clim() == (
            labels_of(labels)[0],
            labels_of(labels)[-1],
        )
    for labels in (kind, kind.astype(str), kind / 2, kind.astype(float)):
        assert len(legend_of(drawn(xy, labels))) == 3
    assert legend_of(drawn(xy, (kind * 5 + 5).astype(str))) == ["5", "10", "15"]
    with pytest.raises(MapError, match="the label 'a' is no number"):
        drawn(xy, ["a"] * len(xy), categorical=False)


def labels_of(numbers):
    return sorted(float(number) for number in numbers)


@pytest.mark.parametrize("max_dots", [10, 1000])
def test_points_without_a_number_are_grey(max_dots):
    xy, _ = points(100)
    numbers = xy[:, 0].copy()
    numbers[:40] = np.nan
    ax = drawn(xy, numbers, max_dots=max_dots)
    assert legend_of(ax) == ["(no label)"]
    if max_dots == 1000:
        grey, dots = ax.collections
        assert len(grey.get_offsets()) == 40
        assert dots.get_clim() == (numbers[40:].min(), numbers[40:].max())
    else:
        (image,) = ax.images
        colors = {tuple(c) for c in image.get_array().reshape(-1, 4).tolist()}
        assert (0xBB, 0xBB, 0xBB, 255) in colors


@pytest.mark.parametrize("n_labels", [3, 40])
def test_a_legend_in_given_axes_stays_in_the_figure(n_labels):
    import matplotlib.pyplot as plt

    xy, _ = points(400)
    labels = [f"label number {i % n_labels:02d}" for i in range(400)]
    figure, (ax, _) = plt.subplots(1, 2, figsize=(6, 3))
    show_map(xy, labels, MapStyle(), ax=ax)
    figure.canvas.draw()
    legend, axes = ax.get_legend().get_window_extent(), ax.get_window_extent()
    assert legend.width <= axes.width
    assert legend.height <= axes.height
    assert axes.x0 <= legend.x0
    assert legend.x1 <= axes.x1
    figure, ax = plt.subplots(layout="constrained")
    show_map(xy, labels, MapStyle(), ax=ax)
    figure.canvas.draw()
    assert ax.get_legend().get_window_extent().x0 >= ax.get_window_extent().x1
    assert ax.get_legend().get_window_extent().x1 <= figure.bbox.x1
    plt.close("all")


def test_arguments_of_scatter_go_through_and_stay_with_their_points():
    xy, _ = points(50)
    size = np.arange(50) + 1.0
    dots = drawn(xy, scatter={"s": size, "alpha": 0.5, "marker": "x"}).collections[0]
    places = {tuple(p): s for p, s in zip(xy, size, strict=True)}
    offsets = dots.get_offsets().tolist()
    expected = [places[tuple(p)] for p in offsets]
    np.testing.assert_array_equal(dots.get_sizes(), expected)
    assert dots.get_alpha() == 0.5
    red = drawn(xy, ["a"] * 50, scatter={"c": "red", "linewidth": 1})
    assert colors_of(red) == {(1, 0, 0, 1)}


def test_labels_of_another_length_are_refused():
    with pytest.raises(MapError, match="2 labels for 5 points"):
        drawn(points(5)[0], [1, 2])


@pytest.mark.parametrize("labels", [None, "category", "value"])
def test_large_maps_are_images(labels):
    xy, kind = points(3000)
    values = {
        None: None,
        "category": np.array(["a", "b", "c"])[kind],
        "value": xy[:, 0],
    }
    ax = drawn(xy, values[labels], max_dots=1000)
    assert not ax.collections
    assert len(ax.images) == 1


@pytest.mark.parametrize("inverted", [False, True])
@pytest.mark.parametrize("limits", [None, (0.2, 1.5), (1e6, 2e6)])
def test_cells_look_like_those_of_imshow(limits, inverted):
    counts, extent = binned(points(3000)[0])
    shown = []
    for own in (True, False):
        figure = Figure(figsize=(4, 3), dpi=90)
        canvas, ax = FigureCanvasAgg(figure), figure.add_subplot()
        if own:
            show_counts(ax, counts, extent, cmap="viridis", legend="tiles")
        else:
            norm = LogNorm(1, max(2, counts.max()))
            masked = np.ma.masked_equal(counts.T, 0)
            given = {"origin": "lower", "extent": extent, "interpolation": "nearest"}
            colors = ax.imshow(masked, norm=norm, cmap="viridis", **given)
            figure.colorbar(colors, ax=ax, label="tiles")
        ax.set(xlim=limits, aspect="auto")
        if inverted:
            ax.invert_xaxis()
        canvas.draw()
        shown.append(np.asarray(canvas.buffer_rgba()).astype(int))
    assert (shown[0] != 255).any()
    np.testing.assert_array_equal(*shown)


def test_cells_count_every_point():
    xy, _ = points(2000)
    count, (left, right, bottom, top) = binned(xy)
    assert count.sum() == 2000
    nx, ny = count.shape
    assert (right - left) / nx == pytest.approx((top - bottom) / ny)
    weighted, _ = binned(xy, np.full(2000, 2.0))
    np.testing.assert_array_equal(weighted, 2 * count)


@pytest.mark.parametrize("n", [0, 1, 2])
def test_few_points_are_drawn(n):
    xy = np.zeros((n, 2))
    assert drawn(xy) is not None
    assert drawn(xy, ["a"] * n) is not None


def test_pyplot_shows_it():
    import matplotlib.pyplot as plt

    ax = show_map(points(20)[0], None, MapStyle())
    assert plt.gca() is ax
    assert show_map(points(20)[0], None, MapStyle(), ax=ax) is ax
    plt.close("all")


def test_rare_labels_share_a_color():
    """With a label for each slide neither memory nor the legend grows with slides."""
    xy, _ = points(3000)
    labels = np.array(["common"] * 2000 + [f"s{i:03d}" for i in range(1000)])
    ax = drawn(xy, labels, max_dots=1000)
    # 64 are counted each by itself, and 24 of these are named.
    assert legend_of(ax)[:2] == ["common", "s000"]
    assert legend_of(ax)[-1] == "(977 further labels)"
    counted = density(
        lambda: [
            (xy[:1500], Labels.of(labels[:1500])),
            (xy[1500:], Labels.of(labels[1500:])),
        ]
    )
    assert len(counted.by_label) == 64
    assert counted.n_others == 937
    whole = sum(counted.by_label.values()) + counted.others
    np.testing.assert_array_equal(whole, counted.counts)


@given(st.lists(st.sampled_from(["a", "b", "", None]), min_size=1, max_size=40))
def test_labels_are_counted_block_by_block(labels):
    xy = np.random.default_rng(0).normal(size=(len(labels), 2))
    cut = len(labels) // 2

    def blocks():
        ends = [(0, cut), (cut, len(labels))] if cut else [(0, len(labels))]
        return [(xy[a:b], Labels.of(labels[a:b])) for a, b in ends]

    found = density(blocks)
    counts = {name: labels.count(name) for name in sorted({*labels} - {None})}
    assert {name: share.sum() for name, share in found.by_label.items()} == counts
    assert found.counts.sum() == len(labels)
    assert found.n_others == 0
