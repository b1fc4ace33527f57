"""Fonts for labels, in every script."""

import warnings
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import get_data_path
from PIL import Image

from raylatent.mapping import labels
from raylatent.mapping.labels import default_font, fonts_for, make_legible, system_fonts
from raylatent.montage.render import add_legend
from raylatent.slide_map import SlideMap

SHIPPED = Path(get_data_path()) / "fonts" / "ttf"
STIX = str(SHIPPED / "STIXGeneral.ttf")
HOOKED = "\u1d81"  # a d with a hook: STIX has it, DejaVu Sans does not
NORMAL, CANCER = "\u6b63\u5e38", "\u817a\u764c"


@pytest.fixture
def no_fonts(monkeypatch):
    monkeypatch.setattr(labels, "system_fonts", list)


@pytest.fixture
def stix(monkeypatch):
    others = [
        str(SHIPPED / f"{name}.ttf") for name in ("cmr10", "LastResortHE-Regular")
    ]
    monkeypatch.setattr(labels, "system_fonts", lambda: [*others, STIX, "/no/font.ttf"])


def slide_map(*labels):
    n = 4 * len(labels)
    made = SlideMap.from_xy(
        np.arange(n) % 5, np.arange(n) // 5, [f"s{i % len(labels)}" for i in range(n)]
    )
    made.label_by_slide({f"s{i}": label for i, label in enumerate(labels)})
    return made


def legend_texts(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def test_what_the_default_has_needs_no_other(monkeypatch):
    monkeypatch.setattr(labels, "system_fonts", pytest.fail)
    found = fonts_for(["Ödem \u03b1\u2192\u03b2", "опухоль", "نسيج", "x\ny\u200b"])
    assert found == labels.Fonts((default_font(),))
    assert found.runs("Ödem \u03b1\u2192\u03b2") == [
        ("Ödem \u03b1\u2192\u03b2", default_font())
    ]


def test_a_font_of_the_system_has_its_characters_alone(stix, caplog):
    found = fonts_for(["tumor", f"a {HOOKED}\u0301 b"])
    assert found.paths == (default_font(), STIX)
    assert not found.missing
    assert found.runs(f"a {HOOKED}\u0301 b") == [
        ("a ", default_font()),
        (f"{HOOKED}\u0301", STIX),
        (" b", default_font()),
    ]
    assert not caplog.messages


def test_fonts_made_for_many_scripts_come_first():
    names = [
        "NanumGothic",
        "wqy-zenhei",
        "NotoSansCJK-Bold",
        "NotoSansCJK-Regular",
        "Arial",
    ]
    ranked = sorted((f"/fonts/{name}.ttc" for name in names), key=labels._font_rank)
    assert [Path(path).stem for path in ranked] == [
        *(
            "NotoSansCJK-Regular",
            "NotoSansCJK-Bold",
            "wqy-zenhei",
            "NanumGothic",
            "Arial",
        )
    ]


def test_without_a_font_no_two_labels_look_alike_and_it_is_said(no_fonts, caplog):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ax = slide_map(NORMAL, CANCER, "tumor").plot()
        ax.figure.canvas.draw()
    assert legend_texts(ax) == ["tumor", r"\u6b63\u5e38", r"\u817a\u764c"]
    plt.close("all")
    (line,) = caplog.messages
    assert line == (
        f"no font on this machine has all characters of '{NORMAL}', '{CANCER}': the "
        r"pictures show their numbers instead, as \u6b63\u5e38 (a package that has "
        "most: fonts-noto-cjk)"
    )
    both = [
        add_legend(Image.new("RGB", (30, 30)), [(n, "red")], "white")
        for n in (NORMAL, CANCER)
    ]
    assert both[0].tobytes() != both[1].tobytes()


@pytest.mark.parametrize("name", ["umap.png", "umap.pdf", "umap.svg"])
def test_files_are_drawn_with_and_without_a_font(stix, tmp_path, name, caplog):
    made = slide_map(f"{HOOKED} x", NORMAL)
    made.save(tmp_path / name, title=HOOKED)
    made.save_by_label(tmp_path / f"by_{name}")
    assert all(
        NORMAL in message and HOOKED not in message for message in caplog.messages
    )
    if name.endswith("svg"):
        text = (tmp_path / name).read_text()
        assert f"{HOOKED} x" in text
        assert "STIXGeneral" in text
        assert r"\u6b63\u5e38" in text


def test_a_legend_of_several_fonts_stands_on_one_line(stix):
    def ink(name):
        legend = add_legend(Image.new("RGB", (30, 400)), [(name, "white")], "white")
        rows = np.flatnonzero((np.asarray(legend)[:, 30:] < 128).any(axis=(1, 2)))
        return rows.min(), rows.max()

    assert ink(f"H {HOOKED}")[0] == pytest.approx(ink("H")[0], abs=1)
    assert ink("H")[1] == ink("x")[1]  # letters stand on the line


def test_a_users_own_font_is_asked_first(no_fonts, caplog):
    _, ax = plt.subplots()
    ax.set_title(HOOKED, fontfamily="STIXGeneral")
    make_legible(ax)
    assert ax.get_title() == HOOKED
    assert not caplog.messages
    plt.close("all")


def write_font(path, characters):
    """A font with these characters, each a square."""
    pen = TTGlyphPen(None)
    pen.moveTo((100, 0))
    for place in ((100, 800), (900, 800), (900, 0)):
        pen.lineTo(place)
    pen.closePath()
    square = pen.glyph()
    names = {ord(c): f"uni{ord(c):04X}" for c in characters}
    glyphs = [".notdef", *names.values()]
    font = FontBuilder(1000, isTTF=True)
    font.setupGlyphOrder(glyphs)
    font.setupCharacterMap(names)
    font.setupGlyf(dict.fromkeys(glyphs, square))
    font.setupHorizontalMetrics(dict.fromkeys(glyphs, (1000, 100)))
    font.setupHorizontalHeader(ascent=800, descent=-200)
    font.setupNameTable({"familyName": "Squares", "styleName": "Regular"})
    font.setupOS2()
    font.setupPost()
    font.save(path)
    return str(path)


def assert_drawn_in_chinese(folder, caplog):
    found = fonts_for([NORMAL])
    assert not found.missing
    slide_map(NORMAL, CANCER).save(folder / "umap.png")
    assert not caplog.messages


def test_a_font_of_chinese_characters(tmp_path, monkeypatch, caplog):
    if any(
        "LastResort" not in path and labels.has(path, NORMAL[0])
        for path in system_fonts()
    ):
        assert_drawn_in_chinese(tmp_path, caplog)  # with a font of this machine
    font = write_font(tmp_path / "squares.ttf", NORMAL + CANCER)
    monkeypatch.setattr(labels, "system_fonts", lambda: [font])
    assert fonts_for([NORMAL]).paths == (default_font(), font)
    assert_drawn_in_chinese(tmp_path, caplog)
