"""Records decoded by other processes, into memory that is shared with them.

Threads of one interpreter hand on some 3,500 tiles a second, however many cores there are
(16 cores, 224 px): less than a GPU takes.
"""

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from multiprocessing.connection import Connection
from queue import LifoQueue
from typing import TypeAlias

from raylatent.errors import ContentError, RaylatentError, StorageError
from raylatent.source.units import Unit
from raylatent.tiles.clock import Clock
from raylatent.tiles.records import RecordReader
from raylatent.tiles.shared import SharedName, SharedPixels
from raylatent.tiles.tile import Side, Tile, tile_of_record

_TOGETHER = 32
_AHEAD_BATCHES = 2  # asked for before the first of them is waited for
_MOST_OPEN = 64  # memories that a process keeps open
_END_S = 5.0  # what a process is given to end by itself
_PROGRAM = f"import sys, {__name__} as it; it.main(int(sys.argv[1]))"


@dataclass(frozen=True, kw_only=True)
class Task:
    """Records to decode.

    Attributes:
        payloads: Position in the unit, and the record's payload or what is wrong.
        slide: Whose tiles.
        side: What they shall have.
        memory: Where their pixels go, black where there are none.
        first: The place of the first.
    """

    payloads: list[tuple[int, bytes | ContentError]]
    slide: str
    side: Side
    memory: SharedName
    first: int


Decoded: TypeAlias = tuple[list[Tile], float]
"""Tiles without their pixels, and the seconds that it took."""


class Decoders:
    """Processes that decode; they end with who made them, however that ends.

    Args:
        count: How many; they are started now, and are ready some time later.
    """

    def __init__(self, count: int) -> None:
        """See the class."""
        self._idle: LifoQueue[_Process] = LifoQueue()
        for _ in range(count):
            self._idle.put(_Process())
        self._askers = ThreadPoolExecutor(count, thread_name_prefix="decoders")

    def submit(self, task: Task, done: Callable[[], None]) -> Future[Decoded]:
        """Begin a task; StorageError: no memory, or two processes died of it.

        Args:
            task: What to decode.
            done: Called at the end, also of a failure.
        """
        return self._askers.submit(self._decode, task, done)

    def _decode(self, task: Task, done: Callable[[], None]) -> Decoded:
        process = self._idle.get()
        try:
            for _ in range(2):
                with contextlib.suppress(EOFError, OSError):  # it died: another one
                    return process.ask(task)
                process.end()
                process = _Process()
        finally:
            self._idle.put(process)
            done()
        message = (
            f"processes that decode records of {task.slide} died twice of the tiles from "
            f"{task.payloads[0][0]} to {task.payloads[-1][0]} of a unit: is there too "
            "little memory on the node?"
        )
        raise StorageError(message)

    def close(self) -> None:
        """End the processes once all that was begun is done."""
        self._askers.shutdown()
        while not self._idle.empty():
            self._idle.get().end()


class _Process:
    """One of them, and the way to it."""

    def __init__(self) -> None:
        here, there = socket.socketpair()
        # Out of reach of Ctrl-C in a terminal: when `here` is closed, it ends.
        self._process = subprocess.Popen(  # noqa: S603  (this very interpreter)
            [sys.executable, "-c", _PROGRAM, str(there.fileno())],
            stdin=subprocess.DEVNULL,
            pass_fds=[there.fileno()],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(_import_path())},
            start_new_session=True,
        )
        there.close()
        self._connection = Connection(here.detach())

    def ask(self, task: Task) -> Decoded:
        self._connection.send(task)
        answer = self._connection.recv()
        if isinstance(answer, RaylatentError):
            raise answer
        found: Decoded = answer
        return found

    def end(self) -> None:
        self._connection.close()
        try:
            self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _import_path() -> list[str]:
    return [os.path.abspath(entry) for entry in sys.path]  # noqa: PTH100  ("" is here)


def decode_into(
    unit: Unit,
    side: Side,
    decoders: Decoders,
    memories: Iterator[SharedPixels],
    clock: Clock,
) -> Generator[list[Tile], None, None]:
    """A unit's tiles, without pixels: those are in the memories, one after the other.

    Close it when leaving early: nothing is written into the memories after that.

    Args:
        unit: Which tiles.
        side: What they shall have.
        decoders: The processes.
        memories: Each is filled, but for the last one's rest, which is black.
        clock: Counts `read` and `decode`.

    Yields:
        The tiles of each memory.

    Raises:
        StorageError: The file cannot be read, after retries, or see Decoders.decode.
    """
    records = RecordReader(unit, clock)

    def begin(memory: SharedPixels, begun: list[Future[Decoded]]) -> None:
        filled, n_tiles = 0, len(memory.array)
        while filled < n_tiles:
            found = records.next(min(_TOGETHER, n_tiles - filled))
            if found is None:
                break
            payloads, done = found
            task = Task(
                payloads=[(i, _sendable(payload)) for i, payload in payloads],
                slide=unit.source.slide,
                side=side,
                memory=memory.name,
                first=filled,
            )
            begun.append(decoders.submit(task, done))
            filled += len(payloads)
        memory.array[filled:] = 0

    waiting: deque[list[Future[Decoded]]] = deque()
    left = len(unit)
    try:
        while left > 0 or waiting:
            while left > 0 and len(waiting) < _AHEAD_BATCHES:
                memory = next(memories)
                waiting.append([])
                begin(memory, waiting[-1])
                left -= len(memory.array)
            tiles: list[Tile] = []
            for future in waiting[0]:
                found, seconds = future.result()
                tiles += found
                clock.add("decode", seconds)
            yield tiles
            waiting.popleft()
    finally:
        for future in (future for batch in waiting for future in batch):
            if not future.cancel():
                future.exception()


def _sendable(payload: memoryview | ContentError) -> bytes | ContentError:
    return payload if isinstance(payload, ContentError) else bytes(payload)


_open = lru_cache(_MOST_OPEN)(SharedName.open)


def _decode(task: Task) -> Decoded:
    """What a process does with a task."""
    started = time.perf_counter()
    pixels = _open(task.memory)
    tiles = []
    for place, (position, payload) in enumerate(task.payloads, task.first):
        tile = tile_of_record(position, payload, task.slide, task.side)
        pixels[place] = 0 if tile.pixels is None else tile.pixels
        tiles.append(replace(tile, pixels=None))
    return tiles, time.perf_counter() - started


def main(descriptor: int) -> None:
    """Answer tasks until nobody is there to ask."""
    with Connection(descriptor) as connection, contextlib.suppress(EOFError, OSError):
        while True:
            task = connection.recv()
            try:
                answer: object = _decode(task)
            except RaylatentError as error:
                answer = error
            connection.send(answer)
