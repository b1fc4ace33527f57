"""What became of each slide: counts, reasons, and a page of whole slides to look at."""

from collections import Counter
from collections.abc import Container, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from html import escape
from urllib.parse import quote

from raylatent import schema
from raylatent.errors import StorageError
from raylatent.parts import read_part
from raylatent.run import RunDirectory
from raylatent.source.grids import left_out
from raylatent.source.units import Source

_THREADS = 16
_MOST_REASONS = 100  # of a slide, in the report
_FEW = 10  # this many bad tiles never fail a slide that has good ones
_PAGE = """<!doctype html>
<meta charset="utf-8">
<title>Slides</title>
<style>
body { font: 14px/1.4 sans-serif; margin: 2em; color: #222; }
section { display: flex; gap: 1.5em; margin: 0 0 2em; align-items: flex-start; }
img { max-width: 480px; max-height: 480px; border: 1px solid #ccc; }
h2 { font-size: 16px; margin: 0 0 .5em; overflow-wrap: anywhere; }
td { padding: 0 1em 0 0; }
.failed { color: #b00020; overflow-wrap: anywhere; }
</style>
<h1>Slides</h1>
<p>Green: the tiles that are kept, or the edge of all together. Red areas could not be read.</p>
"""


@dataclass(frozen=True, kw_only=True)
class SlideReport:
    """One slide's tiles.

    Attributes:
        slide: Its name.
        n_indexed: Tiles promised.
        rows: Activation rows on disk.
        quarantined: Quarantine rows on disk.
        reasons: How often each error quarantined a tile.
        error: Why the slide failed, None where it did not.
        left_out: Of a whole slide: tiles of the grid that were left out, by reason.
    """

    slide: str
    n_indexed: int
    rows: int
    quarantined: int
    reasons: Mapping[str, int] = field(default_factory=dict)
    error: str | None = None
    left_out: Mapping[str, int] | None = None


def slide_report(
    source: Source,
    rows: int,
    reasons: Counter[str],
    undone: str | None,
    max_bad_fraction: float,
) -> SlideReport:
    """What became of a slide, from what is on disk of it.

    Args:
        source: As planned.
        rows: On disk.
        reasons: How often each error quarantined a tile.
        undone: Why units were left undone, None where none was.
        max_bad_fraction: See `audit`.
    """
    bad = sum(reasons.values())
    error = undone or source.error
    if error is None and rows + bad != source.n_indexed:
        error = (
            f"{rows} rows and {bad} quarantined tiles are not the {source.n_indexed} "
            "that were indexed: run again"
        )
    too_many = bad > _FEW and bad > max_bad_fraction * source.n_indexed
    if error is None and (too_many or (bad and not rows)):
        reason, count = reasons.most_common(1)[0]
        error = (
            f"{bad} of {source.n_indexed} tiles are bad (--max-bad-fraction "
            f"{max_bad_fraction:g}), {count} of them: {reason}"
        )
    return SlideReport(
        slide=source.slide,
        n_indexed=source.n_indexed,
        rows=rows,
        quarantined=bad,
        reasons=_most_common(reasons),
        error=error,
    )


def _most_common(reasons: Counter[str]) -> dict[str, int]:
    """At most `_MOST_REASONS`, and how often there were others: files word some."""
    if len(reasons) <= _MOST_REASONS:
        return dict(reasons)
    most = dict(reasons.most_common(_MOST_REASONS))
    return {**most, "other reasons": sum(reasons.values()) - sum(most.values())}


def with_grids(
    run: RunDirectory, slides: Iterable[SlideReport], whole: Container[str]
) -> list[SlideReport]:
    """Add what was left out of whole slides.

    Args:
        run: The run directory.
        slides: All of them.
        whole: Names of those that are whole slides.
    """

    def one(slide: SlideReport) -> SlideReport:
        name = run.grid_part(slide.slide)
        if slide.slide not in whole or not run.store.exists(name):
            return slide
        try:
            table = read_part(run.store, name, [schema.REASON])
        except StorageError:
            return slide  # it is made again when it is needed
        return replace(slide, left_out=left_out(table))

    with ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(one, slides))


def slides_page(run: RunDirectory, slides: Iterable[SlideReport]) -> str:
    """HTML with each whole slide's picture, counts, and reasons; names are escaped."""
    sections = [
        _section(run.thumbnail(slide.slide), slide)
        for slide in slides
        if slide.left_out is not None or slide.error is not None
    ]
    return _PAGE + "".join(sections)


def _section(picture: str, slide: SlideReport) -> str:
    counts = {"tiles": slide.n_indexed, "done": slide.rows}
    counts |= {f"left out: {k}": n for k, n in (slide.left_out or {}).items()}
    counts |= {f"broken: {k}": n for k, n in slide.reasons.items()}
    rows = "".join(
        f"<tr><td>{escape(name)}</td><td>{count:,}</td></tr>\n"
        for name, count in counts.items()
    )
    image = f'<img src="{escape(quote(picture))}" alt="">'
    image = "" if slide.left_out is None else image  # none of it was ever seen
    failed = f'<p class="failed">{escape(slide.error)}</p>' if slide.error else ""
    return (
        f"<section>{image}<div><h2>{escape(slide.slide)}</h2>\n"
        f"<table>{rows}</table>{failed}</div></section>\n"
    )
