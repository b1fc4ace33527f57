"""Ctrl-C, SIGTERM and a terminal that is closed end a verb in order, and soon."""

import atexit
import os
import signal
import threading
from contextlib import suppress
from types import FrameType, TracebackType
from typing import Any, NoReturn

from raylatent.terminal import PROG, write_line

INTERRUPTED = 130
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_ORDERLY_S = 20.0  # for the claim to be given back, and for actors to end


class Interrupts:
    """The first signal raises KeyboardInterrupt, so that the claim is given back.

    The second says that this goes on, the third ends the process at once. So does time:
    code that holds the main thread, or drops the exception, does not keep the process.

    Args:
        words: What is said then, as where the exception arrives.

    Attributes:
        n_told: How many signals came.
    """

    def __init__(self, words: str) -> None:
        """See the class."""
        self.n_told = 0
        self._words = words
        self._told, self._ended = threading.Event(), threading.Event()
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Interrupts":
        """Handle signals, in the main thread: no other may."""
        if threading.current_thread() is threading.main_thread():
            threading.Thread(target=self._watch, daemon=True).start()
            for number in _SIGNALS:
                # Where it is ignored, as with nohup or in the background, it stays so.
                if signal.getsignal(number) not in {signal.SIG_IGN, None}:
                    self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Put the handlers back that were there before."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self._before:
            atexit.register(_end_at_once_on_signals)  # before what Ray does at the end
        self._ended.set()
        self._told.set()

    def _handle(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        self.n_told += 1
        if self.n_told == 1:
            self._told.set()
            raise KeyboardInterrupt
        if self.n_told == 2:
            with suppress(OSError):
                os.write(2, f"{PROG}: already ending; once more: at once\n".encode())
            return
        self._exit()

    def _watch(self) -> None:
        self._told.wait()
        if not self._ended.wait(_ORDERLY_S):
            self._exit()

    def _exit(self) -> NoReturn:
        write_line(f"{PROG}: {self._words}")
        os._exit(INTERRUPTED)


def _end_at_once_on_signals() -> None:
    """Without a stack trace, while the program cleans up."""
    for number in _SIGNALS:
        if signal.getsignal(number) not in {signal.SIG_IGN, None}:
            signal.signal(number, lambda *_: os._exit(INTERRUPTED))
