"""The claim on a run directory: one driver at a time.

A claim is a file that names host, process and a token, and is written again every
`HEARTBEAT_S`. On the same host the claim of a dead process is taken at once; any other
after `LEASE_S` without a heartbeat, and none while we watch for `_WATCH_S`.
"""

import json
import logging
import os
import re
import socket
import threading
import time
import uuid
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, TypeAlias

from raylatent.errors import ClaimError, StorageError
from raylatent.seal import parse_json
from raylatent.storage import Store

logger = logging.getLogger(__name__)

CLAIM = "claim.json"
_MARKER = re.compile(r"claim\.[0-9a-z]+\.json")  # of a take-over
HEARTBEAT_S = 10.0
LEASE_S = 60.0
_SETTLE_S = 0.3  # between writing a claim over a dead one and reading it again
_WATCH_S = 1.5 * HEARTBEAT_S
# An object store's client asks for the size before it reads: of a claim that is written
# again in between, another length would be cut off. Claims all have this one.
_LENGTH = 1024

Holder: TypeAlias = dict[str, Any]


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
        token: Unique to this driver; also marks its temporary files.

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
        try:
            while not self._store.create(CLAIM, self._content()):
                holder = read_claim(self._store)
                if holder is not None:  # else it was given back just now
                    self._take_over(holder)
                    break
            self._thread.start()
        except KeyboardInterrupt:  # perhaps when it was taken: the block is not entered
            self._stop.set()
            self._give_back()
            raise
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
        self._give_back()

    def check(self) -> None:
        """Raise ClaimError if another driver has taken the claim over."""
        if self._lost is not None:
            raise ClaimError(self._lost)

    def _is_mine(self) -> bool:
        return (read_claim(self._store) or {}).get("token") == self._token

    def _give_back(self) -> None:
        try:
            if self._is_mine():
                # Of drivers that died while they took a claim over; not before the end:
                # others may be at it just when we begin.
                for name in filter(_MARKER.fullmatch, self._store.root_files()):
                    self._store.delete(name)
                self._store.delete(CLAIM)
        except StorageError as failure:  # it ends by itself, as we do
            logger.warning("the claim could not be given back: %s", failure)

    def _content(self) -> bytes:
        pid = os.getpid()
        claim = {
            "token": self._token,
            "host": host_id(),
            "pid": pid,
            "process_start": process_start(pid),
            "heartbeat": time.time(),
        }
        return json.dumps(claim, indent=1).ljust(_LENGTH).encode()

    def _take_over(self, dead: Holder) -> None:
        """Succeed a driver that is gone; of several that try, one does.

        Whoever creates the file named after the dead driver's token is its successor.
        One that died just then has a successor in its turn.
        """
        late = "was taken by another driver just now"
        last, passed = dead, []
        while True:
            alive = _alive(self._store, last)
            if alive is not None:
                self._refuse(f"is being worked on by {alive}: wait for it, or stop it")
            marker = f"claim.{last.get('token', 'none')}.json"
            passed.append(marker)
            if self._store.create(marker, self._content()):
                break
            successor = read_claim(self._store, marker)
            if not successor or marker in passed[:-1]:
                self._refuse(late)
            last = successor
        now = read_claim(self._store) or {}
        if now.get("token") != dead.get("token"):
            self._store.delete(marker)
            self._refuse(late)
        self._store.write(CLAIM, self._content())
        for name in passed:
            self._store.delete(name)
        if not self._store.is_local:  # object stores create in two steps
            time.sleep(_SETTLE_S)
            if not self._is_mine():
                self._refuse(late)
        gone = _who(last) if last else "its file was broken"
        logger.info("took over the claim of a driver that is gone (%s)", gone)

    def _refuse(self, why: str) -> NoReturn:
        message = f"{self._store.uri} {why}"
        raise ClaimError(message)

    def _beat(self) -> None:
        while not self._stop.wait(HEARTBEAT_S):
            try:
                holder = read_claim(self._store)
                if holder and holder["token"] != self._token:
                    self._lost = (
                        f"another driver ({_who(holder)}) took {self._store.uri} over: "
                        "this one stops"
                    )
                    return
                self._store.write(CLAIM, self._content())
            except StorageError as error:
                logger.warning("the claim could not be renewed: %s", error)


def read_claim(store: Store, name: str = CLAIM) -> Holder | None:
    """What a claim says, None where there is none; empty if it is no claim.

    Raises:
        StorageError: It cannot be read: unreadable is not dead.
    """
    try:
        fields = parse_json(store.read(name)) or {}
    except StorageError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return None
        raise
    try:
        holder: Holder = {
            "token": str(fields["token"]),
            "host": str(fields["host"]),
            "pid": int(fields["pid"]),
            "process_start": str(fields["process_start"]),
            "heartbeat": float(fields["heartbeat"]),
        }
    except (ValueError, LookupError, TypeError, OverflowError):
        return {}
    return holder if holder["token"].isalnum() else {}


def _who(holder: Holder) -> str:
    """The driver that a claim names; "no driver" where it names none."""
    if not holder:
        return "no driver"
    return f"pid {holder['pid']} on {holder['host'].split('/', 1)[0]}"


def _alive(store: Store, holder: Holder) -> str | None:
    """Who holds a claim, or None if that driver is known or taken to be gone."""
    if not holder:
        return None
    if holder["host"] == host_id():
        started = process_start(holder["pid"])
        alive = started and started == holder["process_start"]
        return _who(holder) if alive else None
    age_s = time.time() - holder["heartbeat"]
    if abs(age_s) > LEASE_S and not _beats(store, holder):
        return None
    lease = f"last heartbeat {age_s:.0f} s ago, its lease is {LEASE_S:.0f} s"
    return f"{_who(holder)} ({lease})"


def _beats(store: Store, holder: Holder) -> bool:
    """Whether a heartbeat comes while we watch: that host's clock may be off."""
    until = time.monotonic() + _WATCH_S
    while time.monotonic() < until:
        time.sleep(min(1.0, _WATCH_S / 4))
        now = read_claim(store) or {}
        if now.get("token") == holder["token"] and now != holder:
            return True
    return False


def refuse_taken(store: Store) -> None:
    """Refuse to write for a driver that no longer holds the run directory.

    Actors outlive a killed driver by some seconds; by then another driver may be at
    work, perhaps on rows of another configuration.

    Args:
        store: The run directory; its writer is the driver's token.

    Raises:
        ClaimError: The claim is another's, or was given back.
        StorageError: The claim cannot be read.
    """
    holder = read_claim(store) or {}
    if holder.get("token") != store.writer:
        message = (
            f"{store.uri} is no longer this driver's ({_who(holder)} holds it now): "
            "nothing more is written"
        )
        raise ClaimError(message)


def worker_of(store: Store) -> tuple[str, str] | None:
    """Token of the driver that works on a run directory, and who it is; None if none.

    Looks only; a driver of another host may be watched for a while.
    """
    holder = read_claim(store) or {}
    alive = _alive(store, holder)
    return None if alive is None else (holder["token"], alive)


def new_token() -> str:
    """A token for a driver."""
    return uuid.uuid4().hex[:12]
