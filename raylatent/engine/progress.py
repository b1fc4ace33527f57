"""Progress in tiles, with tiles/s and time left: a bar, or lines on stderr."""

import logging
import math
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, TextIO

from raylatent.notebook import is_notebook
from raylatent.terminal import is_terminal, write_line

logger = logging.getLogger(__name__)

_EVERY_S = 2.0
_STILL_EVERY_S = 20.0


class Progress:
    """A line now and then; on a terminal and in a notebook a bar, and then a line.

    Args:
        what: What is being done.
        total: Tiles to do.
        stream: Where to; default stderr.
        unit: What is counted.
    """

    def __init__(
        self,
        what: str,
        total: int,
        stream: TextIO | None = None,
        *,
        unit: str = "tiles",
    ) -> None:
        """See the class."""
        self._unit = unit
        self._what = what
        self._total = total
        self._stream: TextIO | None = sys.stderr if stream is None else stream
        self._done = self._done_first = 0
        self._started = self._shown = self._first = time.monotonic()
        self._bar: Any = None

    def __enter__(self) -> "Progress":
        """Start the clock."""
        self._started = self._shown = time.monotonic()
        if self._total and (is_terminal(self._stream) or is_notebook()):
            how = {"leave": False, "dynamic_ncols": True, "unit": f" {self._unit}"}
            self._bar = _bar_class()(
                desc=self._what, total=self._total, file=self._stream, **how
            )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Show the last state."""
        if self._bar is not None:
            self._bar.close()
        if self._total:
            self._say(since=self._started, done=self._done)

    def add(self, tiles: int) -> None:
        """Count tiles as done."""
        self._done += tiles
        if not self._done_first:
            self._done_first, self._first = self._done, time.monotonic()
        if self._bar is not None:
            self._bar.update(tiles)
        # Of the end the last line tells.
        elif self._done < self._total and time.monotonic() - self._shown >= _EVERY_S:
            # The first tiles come after the actors' start, which says nothing of the rest.
            self._say(since=self._first, done=self._done - self._done_first)

    def _say(self, *, since: float, done: int) -> None:
        self._shown = time.monotonic()
        rate = done / max(self._shown - since, 1e-9)
        line = progress_line(self._what, self._done, self._total, rate, self._unit)
        write_line(line, self._stream)


def _bar_class() -> Any:  # noqa: ANN401  (it has no types)
    from tqdm import TqdmWarning  # noqa: PLC0415  (only where it is seen)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TqdmWarning)  # of widgets that are not there
        from tqdm.auto import tqdm  # noqa: PLC0415

    return tqdm


class Pace:
    """How fast tiles are done once all workers are at work.

    Workers load and warm up what they need before their first item is done, which says
    nothing of the others: the clock runs from when there is one item for each worker.
    Ray Data hands an item on when the next one is there, and the last two together: to the
    end the item after those is not counted, where the work is broken off before it is.

    Args:
        seconds: How long it is to be measured; default: to the end.

    >>> pace = Pace()
    >>> pace.begin(workers=2)
    >>> for _ in range(4):
    ...     pace.add(10)
    >>> pace.tiles, pace.per_s > 0
    (10, True)
    """

    def __init__(self, seconds: float = math.inf) -> None:
        """See the class."""
        self.tiles = 0
        self._held: int | None = None  # tiles of the item after the first ones
        self._enough_s = seconds
        self._seconds = 0.0
        self.begin(workers=1)

    def begin(self, workers: int) -> None:
        """Start the clock of start-up; a worker of several items at a time counts as several."""
        self._starting, self._at_start, self._held = workers, 0, None
        self._started = self._first = time.monotonic()

    def add(self, tiles: int) -> None:
        """Count the tiles of an item that is done."""
        if self._starting > 0:
            self._starting -= 1
            self._at_start += tiles
            self._first = time.monotonic()
            return
        if self._held is None:
            self._held = tiles
        else:
            self.tiles += tiles
        self._seconds = time.monotonic() - self._first

    @property
    def per_s(self) -> float | None:
        """Tiles/s; None where there were too few items to tell."""
        tiles = self.tiles + ((self._held or 0) if self.enough else 0)
        return tiles / max(self._seconds, 1e-9) if tiles else None

    @property
    def start_s(self) -> float:
        """Seconds that start-up took, without those of the items that were done by then."""
        took = self._first - self._started
        return max(0.0, took - self._at_start / (self.per_s or math.inf))

    @property
    def enough(self) -> bool:
        """Whether it was measured for long enough."""
        return self._seconds >= self._enough_s


def progress_line(
    what: str, done: int, total: int, rate: float, unit: str = "tiles"
) -> str:
    """One line of progress; `rate` in units/s, 0 where it is not known yet.

    >>> progress_line("activations", 500, 2000, 250.0)
    'activations  500/2,000 tiles  25%  250 tiles/s  6 s left'
    """
    parts = [f"{done:,}/{total:,} {unit}", f"{100 * done // max(total, 1)}%"]
    if rate > 0:
        parts.append(f"{rate:,.0f} {unit}/s" if rate >= 10 else f"{rate:.1f} {unit}/s")
    if rate > 0 and done < total:
        parts.append(f"{duration((total - done) / rate)} left")
    return "  ".join([what, *parts])


def duration(seconds: float) -> str:
    """A time for people.

    >>> duration(42.4), duration(150), duration(90_000)
    ('42 s', '2 min 30 s', '25 h 0 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


@contextmanager
def still_working(what: str, every_s: float = _STILL_EVERY_S) -> Iterator[None]:
    """Say now and then that work goes on whose progress is not known.

    Args:
        what: The work, as it is named in the line.
        every_s: Seconds between two lines.
    """
    ended = threading.Event()
    started = time.monotonic()

    def say() -> None:
        while not ended.wait(every_s):
            logger.info("%s: for %.0f s so far", what, time.monotonic() - started)

    thread = threading.Thread(target=say, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
