"""What became of a run: the audit of promise 1, and report.json."""

import json
import logging
from collections import Counter, defaultdict
from collections.abc import Container, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from html import escape
from typing import Any
from urllib.parse import quote

from raylatent import schema
from raylatent.errors import StorageError
from raylatent.model.layer_checks import ConstantLayer, Constants, constants_of_both
from raylatent.parts import read_part
from raylatent.run import REPORT, Part, RunDirectory
from raylatent.run.layout import SLIDES_PAGE
from raylatent.seal import content_digest, sealed_json
from raylatent.source.kinds import kind_of
from raylatent.source.protocol import Request, Source
from raylatent.source.wsi.selection import left_out

logger = logging.getLogger(__name__)

_COUNTS = {
    "quarantined": schema.QUARANTINED,
    "resized": schema.RESIZED,
    "other_slide": schema.OTHER_SLIDE,
    "smaller_batch": schema.SMALLER_BATCH,
}
_SECONDS = {
    "read": schema.READ_S,
    "decode": schema.DECODE_S,
    "wait": schema.WAIT_S,
    "transfer": schema.TRANSFER_S,
    "forward": schema.FORWARD_S,
    "write": schema.WRITE_S,
}
_CPU_SECONDS = {
    "read": schema.READ_CPU_S,
    "decode": schema.DECODE_CPU_S,
    "write": schema.WRITE_CPU_S,
}
_PIXELS = frozenset({"read", "decode"})
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
_SHOWN = 20  # remarks, before the report is named

Remarks = Mapping[str, Sequence[str]]


def slide_remarks(run: RunDirectory, requests: Mapping[str, Request]) -> Remarks:
    """Sentences on each slide, from its grid in the run directory.

    Args:
        run: The run directory.
        requests: What is asked of each whole slide.
    """

    def one(slide: str) -> list[str]:
        request = requests[slide]
        return kind_of(request).remarks(run, slide, request)

    with ThreadPoolExecutor(_THREADS) as pool:
        found = dict(zip(requests, pool.map(one, requests), strict=True))
    return {slide: remarks for slide, remarks in found.items() if remarks}


def say_remarks(run: RunDirectory, requests: Mapping[str, Request]) -> Remarks:
    """Say what is odd before hours of work; of very many slides the report has it all.

    Args:
        run: The run directory.
        requests: What is asked of each whole slide.

    Returns:
        See `slide_remarks`.
    """
    remarks = slide_remarks(run, requests)
    lines = [remark for of_slide in remarks.values() for remark in of_slide]
    for line in lines[:_SHOWN]:
        logger.warning("%s", line)
    if len(lines) > _SHOWN:
        logger.warning("and %d more such lines, see report.json", len(lines) - _SHOWN)
    return remarks


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
        remarks: What is odd about it though it did not fail.
    """

    slide: str
    n_indexed: int
    rows: int
    quarantined: int
    reasons: Mapping[str, int] = field(default_factory=dict)
    error: str | None = None
    left_out: Mapping[str, int] | None = None
    remarks: Sequence[str] = ()


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
    run: RunDirectory,
    slides: Iterable[SlideReport],
    whole: Container[str],
    remarks: Remarks | None = None,
) -> list[SlideReport]:
    """Add what was left out of whole slides.

    Args:
        run: The run directory.
        slides: All of them.
        whole: Names of those that are whole slides.
        remarks: What is odd about some of them.
    """

    def one(slide: SlideReport) -> SlideReport:
        slide = replace(slide, remarks=tuple((remarks or {}).get(slide.slide, ())))
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
    odd = "".join(f"<p>{escape(remark)}</p>" for remark in slide.remarks)
    failed = f'<p class="failed">{escape(slide.error)}</p>' if slide.error else ""
    return (
        f"<section>{image}<div><h2>{escape(slide.slide)}</h2>\n"
        f"<table>{rows}</table>{odd}{failed}</div></section>\n"
    )


def bound_by(seconds: Mapping[str, float]) -> str | None:
    """The stage that a job is bound by: that which most of the actors' time went to.

    Where that is waiting for pixels: reading or decoding, which takes longer.

    Args:
        seconds: By stage: of threads that read and decode, of actors that transfer, run
            the model and write; `wait` is how long models waited for pixels. Other
            entries than stages (`wall`) do not count.

    >>> bound_by({"read": 1, "decode": 8, "wait": 3, "forward": 2, "wall": 6})
    'decode'
    >>> bound_by({"read": 1, "decode": 8, "wait": 1, "forward": 2, "wall": 6})
    'forward'
    """
    took = {k: v for k, v in seconds.items() if v > 0 and k in _SECONDS}
    pixels = {k: v for k, v in took.items() if k in _PIXELS}
    if "wait" not in took:  # nobody does: pixels are all that is made
        return max(took, key=took.__getitem__, default=None)
    actors = {k: v for k, v in took.items() if k not in pixels}
    bound = max(actors, key=actors.__getitem__)
    return max(pixels, key=pixels.__getitem__) if bound == "wait" and pixels else bound


def run_rates(
    tiles: int, seconds: Mapping[str, float], cpu: Mapping[str, float], *, gpus: float
) -> dict[str, dict[str, float | str]]:
    """A run's tiles/s of one core or of one GPU, by stage.

    A model's CPU seconds are spread over torch's own threads, and are not known of a
    run: it has a rate on GPUs alone.

    Args:
        tiles: That the run did.
        seconds: By stage, as of `bound_by`.
        cpu: CPU seconds of threads that read, decode and write.
        gpus: Of an actor.

    >>> run_rates(800, {"decode": 2.0, "forward": 4.0}, {"decode": 1.0}, gpus=0.5)
    {'decode': {'tiles_per_s': 800.0, 'per': 'core'}, 'forward': {'tiles_per_s': 400.0, 'per': 'gpu'}}
    """
    found: dict[str, dict[str, float | str]] = {
        stage: {"tiles_per_s": tiles / used, "per": "core"}
        for stage, used in cpu.items()
        if used > 0
    }
    for stage in ("transfer", "forward") if gpus else ():
        if seconds.get(stage, 0.0) > 0:
            rate = tiles / (seconds[stage] * gpus)
            found[stage] = {"tiles_per_s": rate, "per": "gpu"}
    return found


class Tally:
    """What the actors told of their units, summed up.

    Attributes:
        rows: Of activations.
        counts: Tiles, and how many of them were quarantined, resized, of other slides, or
            went through the model in smaller batches than asked for.
        seconds: By stage: of the threads that read and decode, of the actors that
            transfer, run the model and write; `wait` is how long models waited for
            pixels.
        cpu: CPU seconds by stage, of the threads that read, decode and write.
        undone: Slides with units left undone, and why.
    """

    def __init__(self) -> None:
        """Nothing was told."""
        self.rows = 0
        self.counts = dict.fromkeys(("tiles", *_COUNTS), 0)
        self.seconds = dict.fromkeys(_SECONDS, 0.0)
        self.cpu = dict.fromkeys(_CPU_SECONDS, 0.0)
        self.undone: dict[str, str] = {}
        self._constants: Constants | None = None

    def add(self, row: Mapping[str, Any]) -> int:
        """Add a row of schema.MANIFEST; its tiles."""
        tiles = int(row[schema.ROWS] + row[schema.QUARANTINED])
        self.rows += row[schema.ROWS]
        self.counts["tiles"] += tiles
        for name, column in _COUNTS.items():
            self.counts[name] += row[column]
        for name, column in _SECONDS.items():
            self.seconds[name] += row[column]
        for name, column in _CPU_SECONDS.items():
            self.cpu[name] += row[column]
        if row[schema.ERROR] is not None:
            self.undone[row[schema.SLIDE]] = row[schema.ERROR]
        if row[schema.CONSTANT] is not None:
            found: Constants = json.loads(row[schema.CONSTANT])
            before = self._constants
            self._constants = (
                found if before is None else constants_of_both(before, found)
            )
        return tiles

    @property
    def constants(self) -> Constants:
        """Layers that are the same in all rows that were told of."""
        return self._constants or {}


@dataclass(frozen=True, kw_only=True)
class RunReport:
    """What became of a run.

    Attributes:
        run: The run directory.
        slides: Each slide of the plan.
        removed: Slides set aside since this invocation did not name them.
        counts: Of this invocation, see Tally.
        seconds: Of this invocation: wall time, and by stage, see Tally.
        cpu: Likewise CPU seconds; None where stages are not told by core or GPU.
        gpus: Of an actor.
        constant: Layers that are the same in all tiles of this invocation.
    """

    run: str
    slides: list[SlideReport]
    removed: list[str]
    counts: Mapping[str, int]
    seconds: Mapping[str, float]
    cpu: Mapping[str, float] | None = None
    gpus: float = 0.0
    constant: Sequence[ConstantLayer] = ()

    @property
    def failed(self) -> list[SlideReport]:
        """Slides that failed."""
        return [slide for slide in self.slides if slide.error is not None]

    @property
    def n_rows(self) -> int:
        """Activation rows of the run."""
        return sum(slide.rows for slide in self.slides)

    @property
    def n_quarantined(self) -> int:
        """Quarantined tiles of the run."""
        return sum(slide.quarantined for slide in self.slides)

    @property
    def bound_by(self) -> str | None:
        """The stage that this invocation was bound by."""
        return bound_by(self.seconds)

    def _by_core_or_gpu(self, tiles: int) -> dict[str, Any]:
        if self.cpu is None:
            return {}
        rates = run_rates(tiles, self.seconds, self.cpu, gpus=self.gpus)
        return {
            "cpu_seconds_by_stage": dict(self.cpu),
            "tiles_per_s_by_core_or_gpu": rates,
        }

    def as_json(self) -> dict[str, Any]:
        """For report.json."""
        reasons: Counter[str] = Counter()
        for slide in self.slides:
            reasons.update(slide.reasons)
        tiles = self.counts.get("tiles", 0)
        return {
            "slides": len(self.slides),
            "tiles": sum(slide.n_indexed for slide in self.slides),
            "rows": self.n_rows,
            "quarantined": self.n_quarantined,
            "reasons": dict(reasons.most_common()),
            "failed": {slide.slide: slide.error for slide in self.failed},
            "without_tiles": [s.slide for s in self.slides if not s.n_indexed],
            "removed": self.removed,
            "this_invocation": {
                **self.counts,
                "wall_s": self.seconds.get("wall", 0.0),
                "tiles_per_s": tiles / max(self.seconds.get("wall", 0.0), 1e-9),
                "seconds_by_stage": {
                    k: v for k, v in self.seconds.items() if k != "wall"
                },
                "tiles_per_s_by_stage": {
                    stage: tiles / value
                    for stage, value in self.seconds.items()
                    if stage not in {"wall", "wait"} and value > 0
                },
                **self._by_core_or_gpu(tiles),
                "bound_by": self.bound_by,
                "constant_layers": [str(layer) for layer in self.constant],
            },
            "by_slide": [
                {
                    "slide": slide.slide,
                    "n_indexed": slide.n_indexed,
                    "rows": slide.rows,
                    "quarantined": slide.quarantined,
                    "reasons": dict(slide.reasons),
                    "error": slide.error,
                    **({"remarks": list(slide.remarks)} if slide.remarks else {}),
                    **({} if slide.left_out is None else {"left_out": slide.left_out}),
                }
                for slide in self.slides
            ],
        }


def audit(
    run: RunDirectory,
    parts: Iterable[Part],
    sources: Iterable[Source],
    undone: Mapping[str, str],
    max_bad_fraction: float,
) -> list[SlideReport]:
    """Count what is on disk for each slide, and say which failed.

    Args:
        run: The run directory.
        parts: All that can be read.
        sources: The plan.
        undone: Slides with units left undone, and why.
        max_bad_fraction: A slide with more bad tiles, and more than 10, fails.
    """
    fingerprint = run.settings()["fingerprint"]
    rows: Counter[str] = Counter()
    reasons: dict[str, Counter[str]] = defaultdict(Counter)
    for part in parts:
        if part.footer.get(schema.FOOTER_FINGERPRINT) != fingerprint:
            continue  # by an actor that outlived its driver, before --overwrite
        rows[part.slide] += part.rows
        if part.quarantined:
            reasons[part.slide].update(_quarantined(run, part))
    return [
        slide_report(
            source,
            rows[source.slide],
            reasons[source.slide],
            undone.get(source.slide),
            max_bad_fraction,
        )
        for source in sources
    ]


def _quarantined(run: RunDirectory, part: Part) -> list[str]:
    """Errors of a part's quarantine; none where it cannot be read: it is done again."""
    name = run.quarantine_part(part.slide, part.unit)
    try:
        table = read_part(run.store, name, [schema.ERROR])
    except StorageError:
        return []
    errors: list[str] = table[schema.ERROR].to_pylist()
    return errors


def write_report(run: RunDirectory, report: RunReport) -> dict[str, str]:
    """Put report.json in place, and slides.html where there are whole slides.

    Returns:
        The digest of slides.html, which tells none itself.
    """
    digests = {}
    if any(slide.left_out is not None for slide in report.slides):
        page = slides_page(run, report.slides).encode()
        digests[SLIDES_PAGE] = content_digest(page)
        run.store.write(SLIDES_PAGE, page)
    else:
        run.store.delete(SLIDES_PAGE)  # of before, if it is there
    about = sealed_json(report.as_json())
    text = json.dumps(about, indent=1, ensure_ascii=False)
    run.store.write(REPORT, text.encode("utf-8", "surrogateescape"))
    return digests
