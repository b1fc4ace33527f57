"""No silent waiting: says now and then why nothing comes from the cluster."""

import _thread
import logging
import threading
import time
from types import TracebackType

from raylatent.engine.cluster import STALL_TIMEOUT_S, Pool, alive_nodes
from raylatent.engine.progress import duration

logger = logging.getLogger(__name__)

EVERY_S = 60.0
_GRACE_S = 30.0  # for Ray Data to give up first, which ends its work in order
_PATIENCE = 10  # times EVERY_S before a wait without known cause is worth a line


class Watch:
    """Warns while nothing comes, in a thread of its own, and at last gives up.

    Args:
        share: What each actor asks for.
        stall_timeout_s: When to give up, in seconds.
        every_s: How long nothing may come, and how often to warn then, in seconds.

    Attributes:
        gave_up: Whether it has interrupted the main thread, since nothing else did.
    """

    def __init__(
        self,
        share: Pool,
        stall_timeout_s: float = STALL_TIMEOUT_S,
        every_s: float = EVERY_S,
    ) -> None:
        """See the class."""
        self.gave_up = False
        self._share = share
        self._stall_timeout_s = stall_timeout_s
        self._every_s = min(every_s, stall_timeout_s)
        self._last = time.monotonic()
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
        self._thread.join()

    def alive(self) -> None:
        """Something came."""
        self._last = time.monotonic()

    def stalled(self, deaths: str | None) -> str:
        """Why the work ends, in a sentence.

        Args:
            deaths: Of actors, see Ledger.
        """
        why = obstacle(self._share) or deaths or "units may take longer than that"
        quiet_s = time.monotonic() - self._last
        return (
            f"nothing was finished for {duration(quiet_s)} (--stall-timeout-s "
            f"{self._stall_timeout_s:g}): {why}. What is written is kept, and the same "
            "command again goes on from here"
        )

    def _look(self) -> None:
        n_quiet = 0
        while not self._stop.wait(self._every_s):
            quiet_s = time.monotonic() - self._last
            if quiet_s >= self._stall_timeout_s + _GRACE_S:
                self.gave_up = True
                _thread.interrupt_main()
                return
            n_quiet = n_quiet + 1 if quiet_s >= self._every_s else 0
            problem = obstacle(self._share) if n_quiet else None
            if problem is not None:
                logger.warning("waiting for %s: %s", duration(quiet_s), problem)
            elif n_quiet and n_quiet % _PATIENCE == 0:
                logger.warning(
                    "nothing was finished for %s: units take long, or actors cannot "
                    "be placed (`ray status` shows what they wait for)",
                    duration(quiet_s),
                )


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
