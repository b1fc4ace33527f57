"""A model's passes on its device, one micro-batch after the other.

A micro-batch's pixels are put into a buffer (`fill`, or by other processes), the pass
is begun (`start`) and its rows are fetched (`finish`). On a GPU a pass is under way in
between, while the next one is filled and begun; on a CPU `start` does all of it.
"""

import sys
import threading
import weakref
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from raylatent.errors import ModelError
from raylatent.model.features import Activations, Features
from raylatent.tiles.decoders import SharedPixels
from raylatent.tiles.threads import Clock, ahead

_READY = 1  # buffers that are filled before the device asks for them

Pixels = NDArray[np.uint8] | None
Passed = tuple[dict[str, Activations], Activations | None]

_SWITCH_S = 0.5e-3


@dataclass(frozen=True)
class Buffer:
    """Where the pixels of one micro-batch are.

    Attributes:
        host: (batch_size, tile_px, tile_px, 3) uint8.
        device: The same on the device; the very same on a CPU.
        shared: The host's, as other processes see them; None where they do not.
    """

    host: Tensor
    device: Tensor
    shared: SharedPixels | None = None


@dataclass(frozen=True)
class Started:
    """A pass that was begun: its pixels, and its rows by layer and predictions.

    Rows are on the host once the events have happened: beginning and end of the
    transfer, and of the pass.
    """

    buffer: Buffer
    found: dict[str, Tensor]
    predictions: Tensor | None
    events: tuple[Any, ...] = ()


class Lane(ABC):
    """Passes of one model on one device.

    Attributes:
        features: The model and its layers.
        depth: Passes that are under way while the next one is begun.
    """

    depth = 0

    def __init__(self, features: Features) -> None:
        """See the class."""
        self.features = features
        side = features.tile_px
        self._shape = (features.batch_size, side, side, 3)
        self._free: deque[Buffer] = deque()
        # Of the model: units may come from several threads.
        self._lock = threading.Lock()

    @abstractmethod
    def _buffer(self) -> Buffer:
        """A new buffer."""

    @abstractmethod
    def _start(self, buffer: Buffer, clock: Clock, *, with_preds: bool) -> Started:
        """See `start`."""

    def take(self) -> Buffer:
        """A free buffer, with any pixels."""
        try:
            return self._free.pop()
        except IndexError:
            return self._buffer()

    def give_back(self, buffer: Buffer) -> None:
        """A buffer is free again."""
        self._free.append(buffer)

    def fill(self, tiles: Sequence[Pixels]) -> Buffer:
        """A free buffer with tiles (tile_px, tile_px, 3); black where there is none."""
        buffer = self.take()
        pixels = buffer.host.numpy()
        for i, tile in enumerate(tiles):
            pixels[i] = 0 if tile is None else tile
        pixels[len(tiles) :] = 0
        return buffer

    def start(self, buffer: Buffer, clock: Clock, *, with_preds: bool) -> Started:
        """Begin the pass over a filled buffer, which is the lane's until `finish`.

        The clock counts `transfer` and `forward`.
        """
        with self._lock:
            return self._start(buffer, clock, with_preds=with_preds)

    def finish(self, started: Started, clock: Clock) -> Passed:
        """Rows of a pass by layer, flattened, and predictions; waits for the pass."""
        del clock  # what took time on the device, counts it here
        found, predictions = started.found, started.predictions
        rows = {name: value.flatten(1).numpy() for name, value in found.items()}
        self.give_back(started.buffer)
        return rows, None if predictions is None else predictions.numpy()

    def passes(
        self, buffers: Iterator[Buffer], clock: Clock, *, with_preds: bool
    ) -> Generator[Passed, None, None]:
        """Rows of micro-batches, in order, the next ones on their way meanwhile.

        Another thread asks for the filled buffers. The clock counts `wait`, for them,
        `transfer` and `forward`.
        """
        begun: deque[Started] = deque()
        with closing(ahead(buffers, _READY)) as filled:
            while True:
                with clock.timed("wait"):
                    buffer = next(filled, None)
                if buffer is None:
                    break
                begun.append(self.start(buffer, clock, with_preds=with_preds))
                if len(begun) > self.depth:
                    yield self.finish(begun.popleft(), clock)
        while begun:
            yield self.finish(begun.popleft(), clock)

    def warm_up(self, *, with_preds: bool) -> None:
        """Have what the first passes make, as a compiled model and buffers, made now."""
        black = (self.fill(()) for _ in range(1 + self.depth))
        clock = Clock("wait", "transfer", "forward")  # nobody looks at it
        with closing(self.passes(black, clock, with_preds=with_preds)) as passes:
            for _ in passes:
                pass


class CpuLane(Lane):
    """Passes on the CPU: one at a time, standardized into memory that is kept."""

    def __init__(self, features: Features) -> None:
        """See the class."""
        super().__init__(features)
        self._input = torch.empty(self._shape, dtype=torch.float32)

    def _buffer(self) -> Buffer:
        pixels = torch.empty(self._shape, dtype=torch.uint8)
        return Buffer(pixels, pixels)

    def _start(self, buffer: Buffer, clock: Clock, *, with_preds: bool) -> Started:
        with clock.timed("forward"):
            batch = self.features.standardized(buffer.host, out=self._input)
            found, predictions = self.features.run(batch, with_preds=with_preds)
        return Started(buffer, found, predictions)


class CudaLane(Lane):
    """Passes on a GPU, one being computed while the pixels of the next are sent.

    Pixels go as bytes out of pinned memory, which processes that decode see as well, on
    a stream of their own; rows come back into pinned memory without the host waiting.
    The model is the lane's: its weights are laid out channels last, as its input is.
    """

    depth = 1

    def __init__(self, features: Features, cuda: Any = torch.cuda) -> None:  # noqa: ANN401
        """`cuda` is torch.cuda, or what does as it does."""
        super().__init__(features)
        self._cuda = cuda
        self._pinned = features.device.type == "cuda"
        self._sending = cuda.Stream(features.device)
        features.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def _buffer(self) -> Buffer:
        shared = SharedPixels(self._shape)
        host = torch.from_numpy(shared.array)
        if self._pinned:
            _pin(host)
        device = torch.empty(
            self._shape, dtype=torch.uint8, device=self.features.device
        )
        return Buffer(host, device, shared)

    def _start(self, buffer: Buffer, clock: Clock, *, with_preds: bool) -> Started:
        del clock  # the device's own times are known at the end
        cuda = self._cuda
        # Blocking: cores that would only wait decode.
        sent, seen, begun, ended = (
            cuda.Event(enable_timing=True, blocking=True) for _ in range(4)
        )
        with cuda.stream(self._sending):
            sent.record(self._sending)
            buffer.device.copy_(buffer.host, non_blocking=True)
            seen.record(self._sending)
        computing = cuda.current_stream(self.features.device)
        computing.wait_event(seen)
        begun.record(computing)
        batch = self.features.standardized(buffer.device)
        found, predictions = self.features.run(batch, with_preds=with_preds)
        found = {name: self._fetch(value) for name, value in found.items()}
        fetched = None if predictions is None else self._fetch(predictions)
        ended.record(computing)
        return Started(buffer, found, fetched, (sent, seen, begun, ended))

    def _fetch(self, value: Tensor) -> Tensor:
        """A copy on the host, there once the stream has got so far."""
        host = torch.empty(value.shape, dtype=value.dtype, pin_memory=self._pinned)
        return host.copy_(value, non_blocking=True)

    def finish(self, started: Started, clock: Clock) -> Passed:
        """See Lane."""
        sent, seen, begun, ended = started.events
        ended.synchronize()
        clock.add("transfer", sent.elapsed_time(seen) / 1e3)
        clock.add("forward", begun.elapsed_time(ended) / 1e3)
        rows, predictions = super().finish(started, clock)
        # Out of pinned memory, of which there is little: all rows of a unit are kept.
        rows = {name: value.copy() for name, value in rows.items()}
        return rows, None if predictions is None else predictions.copy()


def _pin(host: Tensor) -> None:
    """Pin memory that is not torch's own, for as long as the tensor lives.

    Raises:
        ModelError: There is no room for it.
    """
    cudart = torch.cuda.cudart()  # type: ignore[no-untyped-call]
    n_bytes = host.numel() * host.element_size()
    error = int(cudart.cudaHostRegister(host.data_ptr(), n_bytes, 0))
    if error:
        message = (
            f"{n_bytes / 2**20:.0f} MiB of memory cannot be pinned for the GPU (CUDA's "
            f"error {error}): take a smaller --batch-size, or give the node more memory"
        )
        raise ModelError(message)
    weakref.finalize(host, cudart.cudaHostUnregister, host.data_ptr())


def lane_of(features: Features) -> Lane:
    """The lane for a model on its device."""
    return CudaLane(features) if features.device.type == "cuda" else CpuLane(features)


def torch_version() -> str:
    """Torch's version without its build, such as `2.9.0`."""
    return torch.__version__.split("+", 1)[0]


def set_threads(n: int) -> None:
    """Let torch use `n` threads."""
    torch.set_num_threads(n)


def feed_gpu(threads: int) -> None:
    """Let torch use `threads` threads, and its launches wait less for other threads.

    A pass asks for the interpreter dozens of times; whoever has it gives it up after
    this long (Python's own: 5 ms, half of a pass of a ResNet-50).
    """
    set_threads(threads)
    sys.setswitchinterval(_SWITCH_S)


def has_gpu() -> bool:
    """Whether torch can use a GPU here."""
    return torch.cuda.is_available()
