"""Items made ahead of who uses them, by a thread of their own."""

from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar, cast

T = TypeVar("T")

_END = object()


def ahead(items: Iterator[T], most: int) -> Generator[T, None, None]:
    """The same items, at most `most` of them ready or being made before they are asked for.

    Close it when leaving early, as `contextlib.closing` does: its thread has ended then.

    >>> list(ahead(iter("abc"), 2))
    ['a', 'b', 'c']
    """
    with ThreadPoolExecutor(1, thread_name_prefix="ahead") as pool:
        waiting: deque[Future[object]] = deque()
        try:
            while True:
                while len(waiting) < most:
                    waiting.append(pool.submit(next, items, _END))
                item = waiting.popleft().result()
                if item is _END:
                    return
                # Before it is used, which takes its time.
                waiting.append(pool.submit(next, items, _END))
                yield cast("T", item)
        finally:
            for future in waiting:
                future.cancel()
