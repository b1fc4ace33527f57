"""How long stages of work took, whichever threads did them."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager


class Clock:
    """Seconds by stage, summed over all threads that work on it.

    Args:
        stages: Their names.

    Attributes:
        seconds: By stage; those of several threads at once count each.
        cpu: CPU seconds of those threads, of what `timed` counts.

    >>> clock = Clock("read", "decode")
    >>> with clock.timed("read"):
    ...     pass
    >>> clock.seconds["read"] > clock.seconds["decode"]
    True
    """

    def __init__(self, *stages: str) -> None:
        """See the class."""
        self.seconds = dict.fromkeys(stages, 0.0)
        self.cpu = dict.fromkeys(stages, 0.0)
        self._lock = threading.Lock()

    def add(self, stage: str, seconds: float, cpu: float = 0.0) -> None:
        """Count seconds of a stage, and CPU seconds."""
        with self._lock:
            self.seconds[stage] += seconds
            self.cpu[stage] += cpu

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Count what is done in this context."""
        started, cpu = time.perf_counter(), time.thread_time()
        try:
            yield
        finally:
            took, used = time.perf_counter() - started, time.thread_time() - cpu
            self.add(stage, took, used)
