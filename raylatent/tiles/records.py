"""Records of a unit, some at a time, no more in memory than is decoded soon."""

import threading
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from typing import TypeAlias

from raylatent.errors import ContentError
from raylatent.source.tfrecord import iter_records
from raylatent.source.units import Unit
from raylatent.tiles.clock import Clock

_AHEAD_BYTES = 128 << 20
_LARGE_BYTES = 8 << 20

Payload: TypeAlias = memoryview | ContentError


class RecordReader:
    """Reads a unit's records, and waits while too many bytes of them are not decoded.

    Args:
        unit: Which records.
        clock: Counts `read`.
    """

    def __init__(self, unit: Unit, clock: Clock) -> None:
        """See the class."""
        records = iter_records(unit.source.uri, unit.offsets, unit.lengths)
        self._payloads = iter(enumerate(records))
        self._clock = clock
        self._budget = _Budget(_AHEAD_BYTES)

    def next(
        self, most: int
    ) -> tuple[list[tuple[int, Payload]], Callable[[], None]] | None:
        """The next records, fewer where they are large; None at the end.

        Args:
            most: How many.

        Returns:
            Positions and payloads, and what to call when they are decoded.

        Raises:
            StorageError: The file cannot be read, after retries.
        """
        with self._clock.timed("read"):
            together = list(self._few(most))
        if not together:
            return None
        n_bytes = sum(_size(payload) for _, payload in together)
        self._budget.take(n_bytes)
        return together, partial(self._budget.give_back, n_bytes)

    def _few(self, most: int) -> Iterator[tuple[int, Payload]]:
        n_bytes = 0
        for number, payload in islice(self._payloads, most):
            yield number, payload
            n_bytes += _size(payload)
            if n_bytes > _LARGE_BYTES:
                return


class _Budget:
    """Bytes of records that wait to be decoded: however large, not all are held."""

    def __init__(self, most: int) -> None:
        self._most, self._held = most, 0
        self._changed = threading.Condition()

    def take(self, n_bytes: int) -> None:
        """Wait until there is room; what is larger than all has it when it is alone."""
        with self._changed:
            self._changed.wait_for(
                lambda: not self._held or self._held + n_bytes <= self._most
            )
            self._held += n_bytes

    def give_back(self, n_bytes: int) -> None:
        with self._changed:
            self._held -= n_bytes
            self._changed.notify_all()


def _size(payload: Payload) -> int:
    return 0 if isinstance(payload, ContentError) else len(payload)
