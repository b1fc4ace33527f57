"""Progress in tiles, with tiles/s and time left, on stderr."""

import sys
import time
from types import TracebackType
from typing import TextIO

_EVERY_S = 2.0


class Progress:
    """A line now and then; on a terminal one line that is drawn over.

    Args:
        what: What is being done.
        total: Tiles to do.
        stream: Where to; default stderr.
    """

    def __init__(self, what: str, total: int, stream: TextIO | None = None) -> None:
        """See the class."""
        self._what = what
        self._total = total
        self._stream = sys.stderr if stream is None else stream
        self._done = 0
        self._started = self._shown = time.monotonic()

    def __enter__(self) -> "Progress":
        """Start the clock."""
        self._started = self._shown = time.monotonic()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Show the last state."""
        if self._total:
            self._show(last=True)

    def add(self, tiles: int) -> None:
        """Count tiles as done."""
        self._done += tiles
        if time.monotonic() - self._shown >= _EVERY_S:
            self._show(last=False)

    def _show(self, *, last: bool) -> None:
        self._shown = time.monotonic()
        line = progress_line(
            self._what, self._done, self._total, self._shown - self._started
        )
        over = self._stream.isatty()
        ending = "\n" if last or not over else ""
        self._stream.write(f"\r\x1b[K{line}{ending}" if over else f"{line}\n")
        self._stream.flush()


def progress_line(what: str, done: int, total: int, elapsed_s: float) -> str:
    """One line of progress.

    >>> progress_line("activations", 500, 2000, 2.0)
    'activations  500/2,000 tiles  25%  250 tiles/s  6 s left'
    """
    rate = done / elapsed_s if elapsed_s > 0 else 0.0
    parts = [f"{done:,}/{total:,} tiles", f"{100 * done // max(total, 1)}%"]
    if done:
        parts.append(f"{rate:,.0f} tiles/s")
    if 0 < done < total and rate > 0:
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
