"""How long something takes, by the clock and in CPU seconds of this process."""

import time
from collections.abc import Callable, Iterable

from raylatent.bench.rates import CORE, Rate


def measure(
    steps: Iterable[Callable[[], tuple[int, int]]],
    seconds: float,
    *,
    per: str = CORE,
    least: int = 0,
    rest: Callable[[], tuple[int, int]] | None = None,
) -> Rate:
    """Call steps one after the other until the time is up or they are.

    The step under way is finished.

    Args:
        steps: Each gives how many tiles it did, and bytes.
        seconds: How long, about.
        per: See Rate.
        least: Tiles that are done in any case.
        rest: Waits for what steps began and did not end; it is counted as theirs.

    >>> rate = measure((lambda: (3, 10) for _ in range(4)), seconds=60)
    >>> rate.tiles, rate.n_bytes
    (12, 40)
    """
    tiles = n_bytes = 0
    started, cpu = time.perf_counter(), time.process_time()
    for step in steps:
        n, size = step()
        tiles += n
        n_bytes += size
        if time.perf_counter() - started >= seconds and tiles >= least:
            break
    if rest is not None:
        n, size = rest()
        tiles += n
        n_bytes += size
    return Rate(
        tiles=tiles,
        wall_s=time.perf_counter() - started,
        cpu_s=time.process_time() - cpu,
        per=per,
        n_bytes=n_bytes,
    )
