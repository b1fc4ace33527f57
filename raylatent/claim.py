"""The claim on a run directory: one driver at a time.

A claim is a file that names host, process and a token, and is touched every
`HEARTBEAT_S`. On the same host the claim of a dead process is taken at once; any other
after `LEASE_S` without a heartbeat.
"""

import json
import logging
import os
import socket
import threading
import time
import uuid
from pathlib import Path
from types import TracebackType
from typing import Any

from raylatent.errors import ClaimError, StorageError
from raylatent.storage import Store

logger = logging.getLogger(__name__)

CLAIM = "claim.json"
HEARTBEAT_S = 10.0
LEASE_S = 60.0
_SETTLE_S = 0.3  # between writing a claim over a dead one and reading it again


def host_id() -> str:
    """This host since its last boot; containers on one kernel differ by host name."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    return f"{socket.gethostname()}/{boot.read_text().strip() if boot.exists() else ''}"


def process_start(pid: int) -> str:
    """When a process started, in the kernel's ticks; empty where it is not running.

    Process ids are used again: id and start together are not.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return "" if Path("/proc").is_dir() else _alive_elsewhere(pid)
    fields = stat.rsplit(")", 1)[1].split()
    return "" if fields[0] == "Z" else fields[19]


def _alive_elsewhere(pid: int) -> str:
    """For systems without /proc: only whether the process is there."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return ""
    except PermissionError:
        pass
    return "running"


class Claim:
    """Holds a run directory while the `with` block lasts.

    Args:
        store: The run directory.
        token: Unique to this driver; also marks its aside files.

    Raises:
        ClaimError: Another driver holds it, or (from `check`) has taken it over.
    """

    def __init__(self, store: Store, token: str) -> None:
        """See the class."""
        self._store = store
        self._token = token
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self._lost: str | None = None

    def __enter__(self) -> "Claim":
        """Take the claim."""
        if not self._store.create(CLAIM, self._content()):
            self._take_over()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Give the claim back."""
        self._stop.set()
        self._thread.join()
        if self._holder().get("token") == self._token:
            self._store.delete(CLAIM)

    def check(self) -> None:
        """Raise ClaimError if another driver has taken the claim over."""
        if self._lost is not None:
            raise ClaimError(self._lost)

    def _content(self) -> bytes:
        pid = os.getpid()
        claim = {
            "token": self._token,
            "host": host_id(),
            "pid": pid,
            "process_start": process_start(pid),
            "heartbeat": time.time(),
        }
        return json.dumps(claim, indent=1).encode()

    def _holder(self) -> dict[str, Any]:
        if not self._store.exists(CLAIM):
            return {}
        try:
            holder = json.loads(self._store.read(CLAIM))
        except (ValueError, StorageError):
            return {}
        return holder if isinstance(holder, dict) else {}

    def _take_over(self) -> None:
        holder = self._holder()
        reason = _why_alive(holder)
        if reason is not None:
            message = (
                f"{self._store.uri} is being worked on by {reason}: wait for it, or "
                "stop it first"
            )
            raise ClaimError(message)
        self._store.write(CLAIM, self._content())
        # Two drivers may find the same dead claim: the last to write it has it.
        time.sleep(_SETTLE_S)
        if self._holder().get("token") != self._token:
            message = f"{self._store.uri} was taken by another driver just now"
            raise ClaimError(message)
        logger.info("took over the claim of a driver that is gone: %s", holder)

    def _beat(self) -> None:
        while not self._stop.wait(HEARTBEAT_S):
            try:
                holder = self._holder()
                if holder and holder.get("token") != self._token:
                    self._lost = (
                        f"another driver (pid {holder.get('pid')} on "
                        f"{_host(holder)}) took {self._store.uri} over"
                    )
                    return
                self._store.write(CLAIM, self._content())
            except StorageError as error:
                logger.warning("the claim could not be renewed: %s", error)


def _host(holder: dict[str, Any]) -> str:
    return str(holder.get("host", "?")).split("/", 1)[0]


def _why_alive(holder: dict[str, Any]) -> str | None:
    """Who holds the claim, or None if that driver is known or taken to be gone."""
    if not holder:
        return None
    who = f"pid {holder.get('pid')} on {_host(holder)}"
    if holder.get("host") == host_id():
        started = process_start(int(holder.get("pid", -1)))
        alive = started != "" and started == holder.get("process_start")
        return who if alive else None
    age_s = time.time() - float(holder.get("heartbeat", 0.0))
    if age_s > LEASE_S:
        return None
    return f"{who} (last heartbeat {age_s:.0f} s ago, its lease is {LEASE_S:.0f} s)"


def new_token() -> str:
    """A token for a driver."""
    return uuid.uuid4().hex[:12]
