"""What actors tell the driver beside their answers: the first error, and deaths."""

import platform
from contextlib import suppress
from types import TracebackType
from typing import Any

import ray

from raylatent.engine.cluster import beside_driver
from raylatent.engine.failures import as_ours
from raylatent.errors import RaylatentError

_ANSWER_S = 30.0


class Ledger:
    """What actors tell of themselves; an actor itself, beside the driver.

    Ray Data hands on the text of an error only, so the error itself is kept here. And
    Ray starts an actor that died again without end: one whose items kill it, for want
    of memory say, would die for ever, so it is counted how often they did since the
    last item was done, and what they were at.
    """

    def __init__(self) -> None:
        """Nothing has happened."""
        self._restarts = 0
        self._failure: RaylatentError | None = None
        self._at: dict[str, str] = {}  # actor: what it works on
        self._last = ""

    def failed(self, failure: RaylatentError) -> None:
        """An actor failed; the first error counts."""
        self._failure = self._failure or failure

    def failure(self) -> RaylatentError | None:
        """The first error."""
        return self._failure

    def begins(self, actor: str, what: str) -> None:
        """An actor begins with something."""
        self._at[actor] = what

    def restarted(self, actor: str) -> int:
        """An actor was started again; how many since the last item."""
        self._restarts += 1
        self._last = self._at.get(actor, "")
        return self._restarts

    def done(self) -> None:
        """An item was done."""
        self._restarts = 0

    def deaths(self) -> str:
        """How many actors died since the last item was done, empty if none did."""
        if not self._restarts:
            return ""
        times = f"{self._restarts} times" if self._restarts > 1 else "once"
        at = f", last {self._last}" if self._last else ""
        return f"actors died and were started again {times} without one item done{at}"


class Teller:
    """An actor's end of the ledger; that the ledger is gone is no error of the actor's.

    As a context it tells of an error that passes through, whatever it is.

    Args:
        ledger: Its handle.
    """

    def __init__(self, ledger: Any) -> None:  # noqa: ANN401  (methods made when it runs)
        """See the class."""
        self._ledger = ledger
        self._actor = str(ray.get_runtime_context().get_actor_id())

    def begins(self, what: str, *, wait: bool = False) -> None:
        """Say what comes next, so that it is known if it kills this actor.

        Args:
            what: It.
            wait: Until it has been heard, for what may kill at once.
        """
        told = self._ledger.begins.remote(self._actor, f"{what} on {platform.node()}")
        if wait:
            with suppress(ray.exceptions.RayError):
                ray.get(told, timeout=_ANSWER_S)

    def restarted(self) -> int:
        """Say that this actor was started again; how many were."""
        with suppress(ray.exceptions.RayError):
            n: int = ray.get(
                self._ledger.restarted.remote(self._actor), timeout=_ANSWER_S
            )
            return n
        return 1

    def deaths(self) -> str:
        """See Ledger."""
        return str(asked(self._ledger.deaths) or "")

    def __enter__(self) -> None:
        """Errors are told from here on."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Tell of the error, if there is one."""
        if error is not None:
            with suppress(ray.exceptions.RayError):
                ray.get(self._ledger.failed.remote(as_ours(error)), timeout=_ANSWER_S)


def start_ledger() -> Any:  # noqa: ANN401  (a handle)
    """A ledger that no other node can take with it."""
    actor: Any = ray.remote(num_cpus=0)(Ledger)
    return actor.options(scheduling_strategy=beside_driver()).remote()


def asked(question: Any) -> Any:  # noqa: ANN401
    """What a method of the ledger answers, None where it is gone, too."""
    try:
        return ray.get(question.remote(), timeout=_ANSWER_S)
    except ray.exceptions.RayError:
        return None
