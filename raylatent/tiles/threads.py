"""Work of several threads: done ahead of who asks for its results, and timed by stage."""

import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from functools import partial
from itertools import repeat
from typing import TypeVar, cast

T = TypeVar("T")

_END = object()


def in_order(
    jobs: Iterable[Callable[[], T]], pool: Executor, most: int
) -> Generator[T, None, None]:
    """Results of jobs in the jobs' order, at most `most` of them under way or waiting.

    Close it when leaving early, as `contextlib.closing` does: jobs that have not begun
    are cancelled then.

    >>> with ThreadPoolExecutor(2) as pool:
    ...     list(in_order([partial(int, "1"), partial(int, "2")], pool, 2))
    [1, 2]
    """
    waiting: deque[Future[T]] = deque()
    try:
        for job in jobs:
            waiting.append(pool.submit(job))
            if len(waiting) >= most:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


def ahead(items: Iterator[T], most: int) -> Generator[T, None, None]:
    """The same items, at most `most` of them ready or being made before they are asked for.

    Close it when leaving early, as `contextlib.closing` does: its thread has ended then.

    >>> list(ahead(iter("abc"), 2))
    ['a', 'b', 'c']
    """
    jobs = repeat(partial(next, items, _END))
    with (
        ThreadPoolExecutor(1, thread_name_prefix="ahead") as pool,
        closing(in_order(jobs, pool, most + 1)) as made,
    ):
        for item in made:
            if item is _END:
                return
            yield cast("T", item)


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
