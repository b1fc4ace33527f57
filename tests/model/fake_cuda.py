"""Streams and events as torch.cuda has them, without a GPU."""

import contextlib
import types


class FakeCuda:
    """Streams and events that happen at once, and a list of what was asked for."""

    def __init__(self):
        self.said = []

    def Stream(self, device):  # noqa: N802
        return types.SimpleNamespace(name="sending")

    def current_stream(self, device):
        return types.SimpleNamespace(
            name="computing", wait_event=lambda event: self.said.append("waits")
        )

    def stream(self, stream):
        self.said.append(stream.name)
        return contextlib.nullcontext()

    def Event(self, *, enable_timing, blocking):  # noqa: N802
        assert enable_timing
        assert blocking
        return types.SimpleNamespace(
            record=lambda stream: self.said.append(f"on {stream.name}"),
            synchronize=lambda: self.said.append("fetched"),
            elapsed_time=lambda other: 2.0,
        )
