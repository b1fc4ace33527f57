"""slides.html and report.json: what of each slide is kept, left out, broken, and why."""

import json
from collections import Counter
from html.parser import HTMLParser
from urllib.parse import unquote

import numpy as np
import pytest

from raylatent.engine.report import (
    RunReport,
    SlideReport,
    slide_report,
    slides_page,
    with_grids,
    write_report,
)
from raylatent.parts import write_part
from raylatent.run import RunDirectory
from raylatent.source.protocol import Source
from raylatent.source.tissue import REASONS
from raylatent.source.wsi import Geometry
from raylatent.source.wsi.selection import grid_table
from raylatent.storage import FileStat

ODD = "<b>&x"


class Page(HTMLParser):
    """Texts, tags and pictures of a page."""

    def __init__(self, text):
        super().__init__()
        self.texts, self.tags, self.pictures = [], Counter(), []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags[tag] += 1
        if tag == "img":
            self.pictures.append(dict(attrs)["src"])

    def handle_data(self, data):
        self.texts.append(data)


@pytest.fixture
def run(tmp_path):
    return RunDirectory(str(tmp_path / "run"))


def write_grid(run, slide, **left_out):
    """A grid of five kept tiles, and some that are left out."""
    reasons = [0] * 5
    for reason, count in left_out.items():
        reasons += [REASONS.index(reason)] * count
    geometry = Geometry(
        tile_px=8, window_px=8, stride_px=8, mpp=0.5, width=8 * len(reasons), height=8
    )
    table = grid_table(geometry, np.array([reasons], np.uint8))
    write_part(run.store, run.grid_part(slide), table, {})


def report_of(slides):
    return RunReport(run="run", slides=slides, removed=[], counts={}, seconds={})


def test_names_and_reasons_are_escaped(run):
    broken = "<script>alert(1)</script> & more"
    slides = [
        SlideReport(slide=ODD, n_indexed=5, rows=4, quarantined=1, reasons={broken: 1}),
        SlideReport(
            slide="\"q\" 's'",
            n_indexed=0,
            rows=0,
            quarantined=0,
            error="is <gone> & lost",
        ),
    ]
    write_grid(run, ODD, otsu=12)
    text = slides_page(run, with_grids(run, slides, {ODD}))
    assert ODD not in text
    assert "<script>" not in text
    page = Page(text)
    assert page.tags["b"] == page.tags["script"] == page.tags["gone"] == 0
    assert {ODD, "\"q\" 's'", f"broken: {broken}", "is <gone> & lost"} <= set(
        page.texts
    )
    (picture,) = page.pictures
    assert unquote(picture) == run.thumbnail(ODD)
    assert not set(picture) & set(' "<>&?#')


def test_counts_and_reasons_are_shown(run):
    slides = [SlideReport(slide="a", n_indexed=5, rows=5, quarantined=0)]
    write_grid(run, "a", otsu=1234, gray=7)
    page = Page(slides_page(run, with_grids(run, slides, {"a"})))
    texts = [text for text in page.texts if text.strip()]
    for name, count in (
        ("tiles", "5"),
        ("done", "5"),
        ("left out: otsu", "1,234"),
        ("left out: gray", "7"),
    ):
        assert texts[texts.index(name) + 1] == count


def test_a_slide_of_which_nothing_is_left_out_has_its_picture_too(run):
    slides = [SlideReport(slide="a", n_indexed=5, rows=5, quarantined=0)]
    write_grid(run, "a")
    (found,) = with_grids(run, slides, {"a"})
    assert found.left_out == {}
    assert len(Page(slides_page(run, [found])).pictures) == 1


def test_report_json_has_what_was_left_out_by_reason(run):
    names = {"whole": 3, "all": 0, "tfrecord": 4}
    slides = [
        SlideReport(slide=name, n_indexed=n, rows=n, quarantined=0)
        for name, n in names.items()
    ]
    write_grid(run, "whole", otsu=2, gray=1, blur=4)
    write_grid(run, "all", white=9)
    write_grid(run, "tfrecord", otsu=1)  # of when it was a slide
    write_report(run, report_of(with_grids(run, slides, {"whole", "all", "no grid"})))
    report = json.loads(run.store.read("report.json"))
    by_slide = {row["slide"]: row for row in report["by_slide"]}
    assert by_slide["whole"]["left_out"] == {"otsu": 2, "gray": 1, "blur": 4}
    assert by_slide["all"]["left_out"] == {"white": 9}
    assert "left_out" not in by_slide["tfrecord"]
    assert report["without_tiles"] == ["all"]
    assert run.store.exists("slides.html")


def test_without_whole_slides_there_is_no_page(run):
    run.store.write("slides.html", b"of slides that are not named any more")
    slides = [SlideReport(slide="a", n_indexed=5, rows=5, quarantined=0)]
    write_report(run, report_of(with_grids(run, slides, {})))
    assert run.store.exists("report.json")
    assert not run.store.exists("slides.html")


def test_a_broken_grid_does_not_keep_the_report_from_being_written(run):
    slides = [SlideReport(slide="a", n_indexed=5, rows=5, quarantined=0)]
    run.store.write(run.grid_part("a"), b"PAR1 no more")
    assert with_grids(run, slides, {"a"}) == slides


@pytest.mark.parametrize(
    ("rows", "bad", "undone", "says"),
    [
        (100, 0, None, None),
        (90, 10, None, None),
        (89, 11, None, "11 of 100 tiles are bad"),
        (0, 5, None, "0 rows and 5 quarantined tiles are not the 100"),
        (99, 0, None, "are not the 100 that were indexed: run again"),
        (100, 0, "it was lost", "it was lost"),
    ],
)
def test_why_a_slide_fails(rows, bad, undone, says):
    stat = FileStat(size=1, mtime_ns=1)
    source = Source(
        source=0, slide="a", kind="slides", uri="/a.svs", stat=stat, n_indexed=100
    )
    found = slide_report(source, rows, Counter({"torn": bad}), undone, 0.05)
    assert (found.rows, found.quarantined) == (rows, bad)
    if says is None:
        assert found.error is None
    else:
        assert says in found.error


def test_reasons_of_which_there_are_too_many_are_counted_together():
    stat = FileStat(size=1, mtime_ns=1)
    source = Source(
        source=0, slide="a", kind="slides", uri="/a.svs", stat=stat, n_indexed=503
    )
    reasons = Counter({f"torn {i}": 1 for i in range(500)}) + Counter({"often": 3})
    found = slide_report(source, 0, reasons, None, 0.05)
    assert len(found.reasons) == 101
    assert found.reasons["often"] == 3
    assert found.reasons["other reasons"] == 401
    assert found.quarantined == sum(found.reasons.values()) == 503
