"""The raster: which way up, how large, what is drawn where there is no tile."""

import logging

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib import colormaps
from matplotlib.colors import to_hex
from PIL import Image

from raylatent.errors import MapError
from raylatent.mapping.labels import (
    MOST_ENTRIES,
    NO_LABEL_COLOR,
    OKABE_ITO,
    category_colors,
    scale_of,
)
from raylatent.montage import render
from raylatent.montage.render import (
    SEVERAL_COLOR,
    Coloring,
    Layout,
    Look,
    add_caption,
    add_legend,
    bounded_cell_px,
    draw_raster,
    majority,
    round_length,
    say_failed,
    show_raster,
    shown_cell_px,
    tile_room_px,
)

GROUND = (0xDF, 0xDF, 0xDF)


def layout(rows, cols, shape, colors=None, alphas=None):
    return Layout(
        rows=np.array(rows),
        cols=np.array(cols),
        n_rows=shape[0],
        n_cols=shape[1],
        colors=colors or [None] * len(rows),
        alphas=alphas,
    )


def tile(seed, size=10):
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (size, size, 3), dtype=np.uint8))


def test_row_0_is_at_the_bottom_and_tiles_are_not_mirrored():
    tiles = [tile(0), tile(1), tile(2)]
    raster, failed = draw_raster(
        layout([0, 0, 2], [0, 1, 1], (3, 2)), Look(cell_px=10), enumerate(tiles)
    )
    pixels = np.asarray(raster)
    assert pixels.shape == (30, 20, 3)
    np.testing.assert_array_equal(pixels[20:, :10], tiles[0])
    np.testing.assert_array_equal(pixels[20:, 10:], tiles[1])
    np.testing.assert_array_equal(pixels[:10, 10:], tiles[2])
    assert (pixels[10:20] == GROUND).all()
    assert failed == {}


@pytest.mark.parametrize("style", ["border", "backdrop"])
def test_a_frame_covers_no_pixel_of_the_tile(style):
    room = tile_room_px(20, framed=True, label_style=style)
    small = tile(0, room)
    raster, _ = draw_raster(
        layout([0], [0], (1, 1), ["#E69F00"]),
        Look(cell_px=20, label_style=style),
        [(0, small)],
    )
    frame = (20 - room) // 2
    assert frame >= 1
    pixels = np.asarray(raster)
    np.testing.assert_array_equal(pixels[frame:-frame, frame:-frame], small)
    assert (pixels[:frame] == (0xE6, 0x9F, 0)).all()
    assert (pixels[:, -frame:] == (0xE6, 0x9F, 0)).all()


def test_without_labels_a_tile_fills_its_cell():
    assert tile_room_px(20, framed=False, label_style="border") == 20
    assert tile_room_px(20, framed=True, label_style=None) == 20


def test_a_tile_that_failed_is_crossed_out_and_told():
    look = Look(cell_px=60)
    raster, failed = draw_raster(
        layout([0, 0], [0, 1], (1, 2)), look, [(0, "decode: broken"), (1, tile(0, 60))]
    )
    assert failed == {0: "decode: broken"}
    cell = np.asarray(raster)[:, :60]
    assert tuple(cell[30, 30]) != GROUND
    assert tuple(cell[0, 0]) == GROUND


def test_failures_are_logged_and_all_of_them_are_an_error(caplog):
    with caplog.at_level(logging.WARNING):
        say_failed({3: "read: no", 1: "decode: no"}, 4)
        say_failed({}, 4)
    assert [record.getMessage() for record in caplog.records] == [
        "2 of 4 tiles cannot be read and are crossed out; the first: decode: no"
    ]
    with pytest.raises(MapError, match="none of the mosaic's 2 tiles can be read: x"):
        say_failed({0: "x", 1: "y"}, 2)


def test_opacity_blends_with_the_background():
    white = Image.new("RGB", (10, 10), "white")
    raster, _ = draw_raster(
        layout([0, 0], [0, 1], (1, 2), alphas=np.array([0.0, 0.5])),
        Look(cell_px=10, background="#000000"),
        [(0, white), (1, white)],
    )
    pixels = np.asarray(raster)
    assert (pixels[:, :10] == 0).all()
    assert (np.abs(pixels[:, 10:].astype(int) - 127) <= 1).all()


def test_a_picture_that_is_not_square_is_in_the_middle():
    raster, _ = draw_raster(
        layout([0], [0], (1, 1)),
        Look(cell_px=10),
        [(0, Image.new("RGB", (4, 10), "red"))],
    )
    red = (np.asarray(raster) == (255, 0, 0)).all(axis=2)
    assert np.flatnonzero(red.all(axis=0)).tolist() == [3, 4, 5, 6]


def test_a_raster_stays_in_bounds(caplog):
    small = layout([0], [0], (50, 50))
    assert bounded_cell_px(small, 100) == 100
    assert not caplog.records
    with caplog.at_level(logging.WARNING):
        assert bounded_cell_px(layout([0], [0], (10, 1000)), 100) == 20
    assert "drawn at 20 px, not 100" in caplog.text
    assert bounded_cell_px(layout([0], [0], (1000, 1000)), 100) == 20
    with pytest.raises(MapError, match="ask for fewer columns"):
        bounded_cell_px(layout([0], [0], (1, 30_000)), 100)


def test_a_raster_stays_in_bounds_by_area(monkeypatch):
    monkeypatch.setattr(render, "MAX_PIXELS", 1_000_000)
    assert bounded_cell_px(layout([0], [0], (20, 20)), 100) == 50


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"cell_px": 0}, "cell_px must be 1 to 20000 pixels, not 0"),
        ({"label_style": "glow"}, "unknown label_style 'glow'"),
        ({"background": "no color"}, "unknown background 'no color'"),
    ],
)
def test_nonsense_is_refused(options, sentence):
    with pytest.raises(MapError, match=sentence):
        Look(**options)


def test_shown_in_map_coordinates():
    raster = Image.new("RGB", (20, 10), "white")
    ax = show_raster(raster, (-1, 3, 5, 7), [("a", "red")], figsize=(2, 2))
    (image,) = ax.images
    assert image.get_extent() == [-1, 3, 5, 7]
    assert image.origin == "upper"
    assert ax.get_ylim() == (5, 7)  # upwards
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["a"]
    assert show_raster(raster, (0, 1, 0, 1), [], figsize=(2, 2), ax=ax) is ax
    plt.close("all")


def test_labels_in_a_figures_legend_are_no_formulas_and_short():
    raster = Image.new("RGB", (20, 10), "white")
    entries = [("$\\frac$", "red"), ("x\n" * 99, "blue")]
    ax = show_raster(raster, (-1, 3, 5, 7), entries, figsize=(12, 6))
    ax.figure.canvas.draw()
    first, second = (text.get_text() for text in ax.get_legend().get_texts())
    assert first == "$\\frac$"
    assert len(second) == 64
    plt.close("all")


def test_a_figure_gets_no_more_pixels_than_it_shows():
    with plt.rc_context({"figure.dpi": 100}):
        assert shown_cell_px(50, (10, 5), 100) == 40
        assert shown_cell_px(5, (10, 5), 100) == 100
        assert shown_cell_px(9999, (1, 1), 100) == 1


def test_majority_is_more_than_half():
    assert majority([("a", 2), ("b", 1)]) == "a"
    assert majority([("a", 2), ("b", 1), ("c", 1)]) is None
    assert majority([]) is None
    assert majority(None) is None


def coloring(cells):
    """Of cells, as of all their points."""
    points = {}
    for name, n in (pair for cell in cells for pair in cell or ()):
        points[name] = points.get(name, 0) + n
    return Coloring(points)


def test_colors_are_by_name_and_the_rest_is_grey():
    few = [[("b", 1)], [("a", 5)]]
    of_few = coloring(few)
    assert of_few.colors == {"a": OKABE_ITO[0], "b": OKABE_ITO[1]}
    assert of_few.entries(few) == list(of_few.colors.items())
    assert of_few.of_cell([("a", 1), ("b", 1)]) == SEVERAL_COLOR
    assert of_few.of_cell([]) == NO_LABEL_COLOR
    assert of_few.of_cell(None) is None
    mixed = [*few, [("a", 1), ("b", 1)], []]
    assert coloring(mixed).entries(mixed)[2:] == [
        ("(several labels)", SEVERAL_COLOR),
        ("(no label)", NO_LABEL_COLOR),
    ]
    assert Coloring({}).entries([None]) == []


def test_words_of_ours_as_labels_of_a_user_are_told_apart():
    cells = [[("mixed", 1)], [("(no label)", 1), ("(several labels)", 1)], []]
    texts = [text for text, _ in coloring(cells).entries(cells)]
    assert texts == [
        *('"(no label)"', '"(several labels)"', "mixed"),
        *("(several labels)", "(no label)"),
    ]


def test_the_legend_names_the_labels_of_most_points():
    cells = [[(f"l{i:02}", 90 + i)] for i in range(MOST_ENTRIES + 4)]
    of_many = coloring(cells)
    entries = of_many.entries(cells)
    assert [text for text, _ in entries] == [
        *(f"l{i:02}" for i in range(4, MOST_ENTRIES + 4)),
        "(4 further labels)",
    ]
    assert entries[-1][1] is None
    # A label that is not named has its color all the same, as on the map.
    assert of_many.of_cell([("l00", 1)]) == of_many.colors["l00"] != SEVERAL_COLOR


def test_numbers_are_drawn_by_a_cells_mean_on_the_maps_scale():
    cells = [[(str(age), 1)] for age in range(40, 61)]
    of_ages = coloring([*cells, []])
    assert of_ages.scale == scale_of(range(40, 61))
    expected = to_hex(colormaps["viridis"](0.5)).upper()
    assert of_ages.of_cell([("40", 1), ("60", 1)]) == expected
    assert of_ages.of_cell([("40", 3), ("60", 1)]) == of_ages.scale.color(45.0)
    texts = [text for text, _ in of_ages.entries([*cells, []])]
    assert texts == [
        "60",
        "57",
        "54",
        "51",
        "48",
        "45",
        "42",
        "(a cell's mean)",
        "(no label)",
    ]


def test_colors_are_those_of_the_scatter():
    cells = [[(f"l{i:02}", 1)] for i in range(12)]
    assert list(coloring(cells).colors.values()) == category_colors(12)


@pytest.mark.parametrize("background", ["#dfdfdf", "black"])
def test_a_legend_stands_beside_the_picture(background):
    picture = Image.new("RGB", (300, 400), "blue")
    entries = [("Ödem \u03b1\u2192\u03b2", "#E69F00"), ("x" * 90, "#009E73")]
    both = add_legend(picture, entries, background)
    assert both.width > 300
    assert both.height == 400
    np.testing.assert_array_equal(np.asarray(both)[:, :300], np.asarray(picture))
    panel = {color for _, color in both.crop((300, 0, *both.size)).getcolors(99_999)}
    assert {(0xE6, 0x9F, 0), (0, 0x9E, 0x73)} <= panel
    assert ((0, 0, 0) if background != "black" else (255, 255, 255)) in panel
    assert add_legend(picture, [], background) is picture


def test_a_long_legend_makes_the_picture_higher():
    entries = [(f"label {i}", SEVERAL_COLOR) for i in range(9)]
    both = add_legend(Image.new("RGB", (30, 20), "blue"), entries, "#dfdfdf")
    assert both.height > 9 * 12
    # The mosaic stays at the bottom, where its row 0 is.
    assert both.getpixel((0, both.height - 1)) == (0, 0, 255)


def test_cells_keep_a_gap_between_them():
    white = Image.new("RGB", (10, 10), "white")
    look = Look(cell_px=10, gap_px=3)
    both = layout([0, 1], [0, 1], (2, 2))
    raster, _ = draw_raster(both, look, [(0, white), (1, white)])
    pixels = (np.asarray(raster) == 255).all(axis=2)
    assert pixels.shape == (23, 23)
    assert pixels[13:, :10].all()
    assert pixels[:10, 13:].all()
    assert pixels.sum() == 200


def test_a_raster_with_gaps_stays_in_bounds():
    assert bounded_cell_px(layout([0], [0], (1000, 10)), 100, 5) == 15
    with pytest.raises(MapError, match="less gap_px"):
        bounded_cell_px(layout([0], [0], (1000, 10)), 100, 20)


def test_a_title_and_a_remark_stand_above_and_below():
    picture = Image.new("RGB", (50, 300), "blue")
    texts = {"title": "T\u00f6pf <b>$x$</b>", "remark": "even: 9 of 12 tiles"}
    both, above = add_caption(picture, "#dfdfdf", 40, **texts)
    pixels = np.asarray(both)
    assert both.width > 50  # as wide as the texts
    np.testing.assert_array_equal(pixels[above : above + 300, :50], picture)
    assert (pixels[:above] == 0).all(axis=2).any()
    assert (pixels[above + 300 :] == 0).all(axis=2).any()
    only, above = add_caption(picture, "#dfdfdf", 40, title="T")
    assert only.height == above + 300


@pytest.mark.parametrize(("um_per_px", "um"), [(3.02, 200), (0.5, 50), (0.011, 1)])
def test_a_scale_bar_is_as_long_as_it_says(um_per_px, um):
    picture = Image.new("RGB", (900, 300), "blue")
    both, above = add_caption(picture, "white", 100, um_per_px=um_per_px)
    assert above == 0
    dark = (np.asarray(both)[300:] == 0).all(axis=2)
    longest = max(len(run) for row in dark for run in bytes(row).split(b"\0"))
    assert longest == round(um / um_per_px)
    assert round_length(100 * um_per_px) == um
