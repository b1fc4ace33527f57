"""Encoded tiles read and decoded by other processes, into memory that is shared with them.

Threads of one interpreter hand on some 3,500 tiles a second, however many cores there are
(16 cores, 224 px): less than a GPU takes.
"""

import contextlib
import itertools
import mmap
import os
import socket
import subprocess
import sys
import weakref
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from multiprocessing.connection import Connection
from queue import LifoQueue
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from raylatent.errors import RaylatentError, StorageError
from raylatent.source.protocol import Unit
from raylatent.storage import reason
from raylatent.tiles.threads import Clock
from raylatent.tiles.tile import Side, Tile, chunk_tiles

_numbers = itertools.count()
_TOGETHER = 64  # records of a task
_AHEAD_BATCHES = 2  # asked for before the first of them is waited for
_MOST_OPEN = 64  # memories that a process keeps open
_END_S = 5.0  # what a process is given to end by itself
_PROGRAM = f"import sys, {__name__} as it; it.main(int(sys.argv[1]))"


@dataclass(frozen=True)
class SharedName:
    """Where another process finds them.

    Attributes:
        path: Of the memory, as long as the process lives that made it.
        number: Of the memory; paths are used again.
        shape: (n, tile_px, tile_px, 3).
    """

    path: str
    number: int
    shape: tuple[int, int, int, int]

    def open(self) -> NDArray[np.uint8]:
        """The pixels, uint8, as the other process sees them.

        >>> pixels = SharedPixels((2, 4, 4, 3))
        >>> pixels.name.open()[1, 0, 0, 2] = 7
        >>> int(pixels.array[1, 0, 0, 2])
        7
        """
        with open(self.path, "r+b") as file:  # noqa: PTH123  (a number is no path)
            return _mapped(file.fileno(), self.shape)


class SharedPixels:
    """Zeros at first.

    The memory belongs to no file: it is gone with the last process that has it open,
    however that ends.

    Args:
        shape: (n, tile_px, tile_px, 3).

    Attributes:
        array: The pixels, uint8.
        name: Where another process finds them.
    """

    def __init__(self, shape: tuple[int, int, int, int]) -> None:
        """See the class."""
        number = next(_numbers)
        descriptor = os.memfd_create(f"raylatent pixels {number}")
        weakref.finalize(self, os.close, descriptor)
        os.truncate(descriptor, int(np.prod(shape)))
        self.array = _mapped(descriptor, shape)
        self.name = SharedName(f"/proc/{os.getpid()}/fd/{descriptor}", number, shape)


def _mapped(descriptor: int, shape: tuple[int, int, int, int]) -> NDArray[np.uint8]:
    memory = mmap.mmap(descriptor, int(np.prod(shape)))
    return np.frombuffer(memory, np.uint8).reshape(shape)


@dataclass(frozen=True, kw_only=True)
class Task:
    """Tiles to read and decode.

    Attributes:
        unit: They, part of a larger one.
        start: Position of the first in that.
        side: What the tiles shall have.
        memory: Where their pixels go, black where there are none.
        place: Where in it the first goes.
    """

    unit: Unit
    start: int
    side: Side
    memory: SharedName
    place: int


Decoded: TypeAlias = tuple[list[Tile], dict[str, tuple[float, float]]]
"""Tiles without their pixels; seconds and CPU seconds of `read` and `decode`."""


class Decoders:
    """Processes that decode; they end with who made them, however that ends.

    Args:
        count: How many at most; each is started when there is something for it.
    """

    def __init__(self, count: int) -> None:
        """See the class."""
        self._idle: LifoQueue[_Process | None] = LifoQueue()
        for _ in range(count):
            self._idle.put(None)
        self._askers = ThreadPoolExecutor(count, thread_name_prefix="decoders")

    def submit(self, task: Task) -> Future[Decoded]:
        """Begin a task.

        Its result raises StorageError where the file cannot be read, after retries,
        the memory does not suffice, or two processes died of it.
        """
        return self._askers.submit(self._decode, task)

    def _decode(self, task: Task) -> Decoded:
        for _ in range(2):
            process, answer = self._idle.get(), None
            try:
                with contextlib.suppress(EOFError, OSError):  # it died
                    process = process or _Process()
                    answer = process.ask(task)
            finally:
                # Nor is one asked again that may answer this yet.
                if answer is None and process is not None:
                    process.end()
                self._idle.put(None if answer is None else process)
            if isinstance(answer, RaylatentError):
                raise answer
            if answer is not None:
                return answer
        message = (
            f"processes that decode {task.unit.source.uri} died twice of the "
            f"{len(task.unit)} tiles from {task.unit.first} on, or cannot be started: is "
            "there too little memory on the node?"
        )
        raise StorageError(message)

    def close(self) -> None:
        """End the processes once all that was begun is done."""
        self._askers.shutdown()
        while not self._idle.empty():
            process = self._idle.get()
            if process is not None:
                process.end()


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

    def ask(self, task: Task) -> Decoded | RaylatentError:
        self._connection.send(task)
        answer: Decoded | RaylatentError = self._connection.recv()
        return answer

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
        StorageError: See Decoders.submit.
    """

    def begin(first: int, memory: SharedPixels) -> list[Future[Decoded]]:
        n = min(len(memory.array), len(unit) - first)
        begun = []
        for place in range(0, n, _TOGETHER):
            start, stop = first + place, first + min(place + _TOGETHER, n)
            task = Task(
                unit=unit.part(start, stop),
                start=start,
                side=side,
                memory=memory.name,
                place=place,
            )
            begun.append(decoders.submit(task))
        memory.array[n:] = 0
        return begun

    waiting: deque[list[Future[Decoded]]] = deque()
    asked = 0
    try:
        while asked < len(unit) or waiting:
            while asked < len(unit) and len(waiting) < _AHEAD_BATCHES:
                memory = next(memories)
                waiting.append(begin(asked, memory))
                asked += len(memory.array)
            tiles: list[Tile] = []
            for future in waiting[0]:
                found, seconds = future.result()
                tiles += found
                for stage, took in seconds.items():
                    clock.add(stage, *took)
            yield tiles
            waiting.popleft()
    finally:
        for future in (future for batch in waiting for future in batch):
            if not future.cancel():
                future.exception()


_open = lru_cache(_MOST_OPEN)(SharedName.open)


def _decode(task: Task) -> Decoded:
    """What a process does with a task."""
    pixels = _open(task.memory)
    clock = Clock("read", "decode")
    chunks = task.unit.chunks()
    tiles: list[Tile] = []
    while True:
        with clock.timed("read"):
            chunk = next(chunks, None)
        if chunk is None:
            return tiles, {s: (clock.seconds[s], clock.cpu[s]) for s in clock.cpu}
        for tile in chunk_tiles(chunk, task.side, clock):
            at = task.place + tile.position
            pixels[at] = 0 if tile.pixels is None else tile.pixels
            position = task.start + tile.position
            tiles.append(replace(tile, position=position, pixels=None))


def _answer(task: Task) -> Decoded | RaylatentError:
    try:
        return _decode(task)
    except RaylatentError as error:
        return error
    except OSError as error:
        return StorageError(
            f"{task.unit.source.uri} cannot be decoded: {reason(error)}"
        )


def main(descriptor: int) -> None:
    """Answer tasks until nobody is there to ask."""
    gone = contextlib.suppress(EOFError, ConnectionError)
    with Connection(descriptor) as connection, gone:
        while True:
            connection.send(_answer(connection.recv()))
