"""No silent waiting: says now and then why nothing comes from the cluster."""

import ctypes
import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

from raylatent.engine.cluster import AGAIN, STALL_TIMEOUT_S, Pool, alive_nodes
from raylatent.engine.progress import duration

logger = logging.getLogger(__name__)

EVERY_S = 60.0
_GRACE_S = 30.0  # for Ray Data to give up first, which ends its work in order
_ANSWER_S = 15.0  # for the cluster to say which nodes are up
_LEAVE_S = 1.0  # for the thread to end; it may be waiting for an answer
_PATIENCE = 10  # times EVERY_S before a wait without known cause is worth a line


class GaveUpError(BaseException):
    """Raised in the thread that waits, by the one that watches; never seen outside."""


class Watch:
    """Warns while nothing comes, in a thread of its own, and at last gives up.

    Args:
        share: What each actor asks for.
        stall_timeout_s: When to give up, in seconds.
        again: What the same command does once more, for the last message.
        every_s: How long nothing may come, and how often to warn then, in seconds.
    """

    def __init__(
        self,
        share: Pool,
        stall_timeout_s: float = STALL_TIMEOUT_S,
        again: str = AGAIN,
        every_s: float = EVERY_S,
    ) -> None:
        """See the class."""
        self._share = share
        self._stall_timeout_s = stall_timeout_s
        self._again = again
        self._every_s = min(every_s, stall_timeout_s)
        self._last = time.monotonic()
        self._waiter: int | None = None  # the thread that waits
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> "Watch":
        """Start to look."""
        self._last = time.monotonic()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Look no more."""
        self._stop.set()
        self._thread.join(_LEAVE_S)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """While this thread waits; only then is it told to give up."""
        with self._lock:
            self._last = time.monotonic()
            self._waiter = threading.get_ident()
        try:
            yield
        finally:
            with self._lock:
                self._last = time.monotonic()
                self._waiter = None

    def stalled(self, deaths: str | None) -> str:
        """Why the work ends, in a sentence.

        Args:
            deaths: Of actors, see Ledger.
        """
        why = self._obstacle() or deaths or "units may take longer than that"
        return (
            f"nothing was finished for {duration(self._stall_timeout_s)} "
            f"(--stall-timeout-s {self._stall_timeout_s:g}): {why}. {self._again}"
        )

    def _look(self) -> None:
        n_quiet = 0
        while not self._stop.wait(self._every_s):
            quiet_s = time.monotonic() - self._last
            if quiet_s >= self._stall_timeout_s + _GRACE_S and self._give_up():
                return
            quiet = self._waiter is not None and quiet_s >= self._every_s
            n_quiet = n_quiet + 1 if quiet else 0
            problem = self._obstacle() if n_quiet else None
            if problem is not None:
                logger.warning("waiting for %s: %s", duration(quiet_s), problem)
            elif n_quiet and n_quiet % _PATIENCE == 0:
                logger.warning(
                    "nothing was finished for %s: units take long, or actors cannot "
                    "be placed (`ray status` shows what they wait for)",
                    duration(quiet_s),
                )

    def _give_up(self) -> bool:
        """Tell the thread that waits, if one does.

        Not by a signal: where a job runs in the background, SIGINT may be ignored.
        """
        with self._lock:
            if self._waiter is None:
                return False
            thread = ctypes.c_ulong(self._waiter)
            error = ctypes.py_object(GaveUpError)
            ctypes.pythonapi.PyThreadState_SetAsyncExc(thread, error)
        # Said here as well, since Ray may not let the other thread end.
        logger.error("giving up after %s without progress", duration(self._quiet_s()))
        return True

    def _quiet_s(self) -> float:
        return time.monotonic() - self._last

    def _obstacle(self) -> str | None:
        """Of `obstacle`, which a cluster that does not answer cannot hold up."""
        found: list[str | None] = []

        def ask() -> None:
            try:
                found.append(obstacle(self._share))
            except Exception as error:  # noqa: BLE001  (whatever Ray raises: it is said)
                found.append(f"the cluster does not answer ({type(error).__name__})")

        asking = threading.Thread(target=ask, daemon=True)
        asking.start()
        asking.join(_ANSWER_S)
        return found[0] if found else "the cluster does not answer"


def obstacle(share: Pool) -> str | None:
    """Why no actor can be placed on the nodes that are up, None where one can."""
    nodes = [node["Resources"] for node in alive_nodes()]
    if not any(node.get("CPU", 0) >= share.num_cpus for node in nodes):
        return f"no node with {share.num_cpus:g} CPUs for an actor is up"
    most_gpus = max(float(node.get("GPU", 0)) for node in nodes)
    if share.num_gpus > most_gpus:
        return (
            f"no node has the {share.num_gpus:g} GPUs that each actor asks for "
            f"(--num-gpus), the most is {most_gpus:g}; the work begins when one joins"
        )
    return None
