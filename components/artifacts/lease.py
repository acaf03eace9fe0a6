"""One owner for unfinished work (contract 11): numbered lease files, a heartbeat, takeover when the owner is gone.

The store needs only exclusive creation, so this works on local disks and in buckets alike. The lease with the highest
number is the valid one; that of an owner who is gone is never removed, the next number is created after it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import logging
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator

from components.artifacts import process
from components.artifacts.store import guarded
from vim_core.errors import StorageError
from vim_core.storage import io

LOG = logging.getLogger(__name__)
HEARTBEAT_S = 5.0
STALE_S = 30.0
POLL_S = 0.5
ABANDONED_S = 3600.0
"""Age of the last heartbeat, by the store's clock, at which an owner on another machine counts as gone.

Long, because it is judged by a single reading: clocks may differ and heartbeats may stall.
"""


@dataclasses.dataclass(frozen=True)
class Owner:
    """The process that holds a lease; another process on the same machine can find out whether it lives."""

    token: str
    host: str
    machine: str
    pid: int
    started: str

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"

    @property
    def alive(self) -> bool | None:
        """True if its process runs, False where it has ended, None where this machine cannot know."""
        if self.machine != process.machine():
            return None
        return process.ProcessId(self.pid, self.started).alive


@dataclasses.dataclass(frozen=True)
class Lease:
    """A held lease; `dead` is the former owner's token if it died on this machine and so can write no more."""

    folder: str
    number: int
    owner: Owner
    dead: str | None

    def owned(self) -> bool:
        """False where another owner took the work over."""
        with guarded(self.folder):
            return _newest(self.folder) == self.number

    def check(self) -> None:
        """Raise `StorageError` when another owner took the work over (this process was away too long)."""
        if not self.owned():
            other = _read_owner(self.folder, _newest(self.folder)) or "another process"
            raise StorageError(f"{self.folder}: taken over by {other}; this attempt stops, let that one finish")


@contextlib.contextmanager
def hold(
    folder: str,
    note: Callable[[str], None],
    heartbeat: float = HEARTBEAT_S,
    stale: float = STALE_S,
    poll: float = POLL_S,
) -> Iterator[Lease]:
    """Own the work whose leases lie in `folder`; waits while another living owner has it.

    Args:
        folder: of the leases.
        note: called with a message when this has to wait or takes over.
        heartbeat: seconds between heartbeats.
        stale: seconds without a heartbeat after which an owner on another machine is gone.
        poll: seconds between checks of another owner's lease.

    Raises:
        StorageError: the folder cannot be used.
    """
    noted, held = False, None
    with guarded(folder):
        while held is None:
            number = _newest(folder)
            dead = gone = None
            if number:
                watch = _Watch(folder, number, stale)
                while (end := watch.end()) is None:
                    if not noted:
                        note(f"{watch.owner or 'another process'} is already working on this; waiting for it")
                        noted = True
                    time.sleep(poll)
                gone = (watch.owner or "an unknown process") if end in ("dead", "silent") else None
                dead = watch.owner.token if watch.owner and end == "dead" else None
            held = _create(folder, number + 1, dead)
        if gone:
            note(f"taking over the unfinished work of {gone}, which is gone")
    with _beating(held, heartbeat):
        yield held


@contextlib.contextmanager
def hold_if_free(folder: str) -> Iterator[Lease | None]:
    """Own the work without waiting, or get None where a living owner has it. Raises `StorageError`."""
    with guarded(folder):
        number = _newest(folder)
        held = _create(folder, number + 1, None) if living_owner(folder) is None else None
    if held is None:
        yield None
        return
    with _beating(held, HEARTBEAT_S):
        yield held


def living_owner(folder: str) -> str | None:
    """The living owner of the work, as text for people, or None; see `ABANDONED_S` for one on another machine."""
    number = _newest(folder)
    if not number or _released(io.read_optional(_beat_uri(folder, number))):
        return None
    owner = _read_owner(folder, number)
    alive = owner.alive if owner else None
    if alive is None:
        newest = max(io.mtime(uri) for uri in (_lease_uri(folder, number), _beat_uri(folder, number)))
        alive = time.time() - newest < ABANDONED_S
    return str(owner or "an unknown process") if alive else None


class _Watch:
    """Watches one lease until it has ended.

    Only changes of the file count, timed by this machine's clock, so clocks need not agree. A process known to live
    keeps its lease even when its heartbeat stalls: two trainings in one folder would be worse than waiting.
    """

    def __init__(self, folder: str, number: int, stale: float) -> None:
        self.folder, self.number, self.stale = folder, number, stale
        self.owner = _read_owner(folder, number)
        self.beat: bytes | None = None
        self.since = time.monotonic()

    def end(self) -> str | None:
        """Why the lease is over: released, dead (process), silent (elsewhere), passed (a higher number); or None."""
        beat = io.read_optional(_beat_uri(self.folder, self.number))
        if beat != self.beat:
            self.beat, self.since = beat, time.monotonic()
        if _released(beat):
            return "released"
        alive = self.owner.alive if self.owner else None
        if alive is False:
            return "dead"
        if alive is None and time.monotonic() - self.since > self.stale:
            return "silent"
        return "passed" if _newest(self.folder) != self.number else None


@contextlib.contextmanager
def _beating(held: Lease, every: float) -> Iterator[None]:
    """Keep the heartbeat of a lease going meanwhile, and release the lease at the end."""

    def write(count: int, released: bool) -> None:
        beat = {"token": held.owner.token, "count": count, "time": time.time(), "released": released}
        io.write_bytes(_beat_uri(held.folder, held.number), json.dumps(beat).encode())

    def keep_beating(stop: threading.Event) -> None:
        for count in itertools.count():
            try:
                write(count, released=False)
            except Exception as error:
                # The work goes on: `check` decides before the commit whether the lease was lost meanwhile.
                LOG.warning("heartbeat of %s failed: %s", held.folder, error)
            if stop.wait(every):
                return

    try:
        with process.background_thread("lease-heartbeat", keep_beating):
            yield
    finally:
        try:
            write(-1, released=True)
        except Exception as error:
            LOG.warning("could not write the release of %s: %s", held.folder, error)
            # A full disk takes no new file, but one can be removed: without the lease, the work is free as well.
            with contextlib.suppress(Exception):
                io.remove_tree(_lease_uri(held.folder, held.number))


def _create(folder: str, number: int, dead: str | None) -> Lease | None:
    """This process's lease of this number, or None where another process has created it first."""
    owner = this_owner()
    data = json.dumps(dataclasses.asdict(owner)).encode()
    return Lease(folder, number, owner, dead) if io.create_exclusive(_lease_uri(folder, number), data) else None


def this_owner() -> Owner:
    """This process as an owner, with a token of its own for each lease."""
    me = process.current()
    return Owner(uuid.uuid4().hex[:12], socket.gethostname(), process.machine(), me.pid, me.started)


def _released(beat: bytes | None) -> bool:
    try:
        return bool(json.loads(beat or b"")["released"])
    except (KeyError, TypeError, ValueError):
        return False


def _read_owner(folder: str, number: int) -> Owner | None:
    try:
        return Owner(**json.loads(io.read_bytes(_lease_uri(folder, number))))
    except (FileNotFoundError, TypeError, ValueError):
        return None


def _lease_uri(folder: str, number: int) -> str:
    return io.join(folder, f"lease-{number:06d}.json")


def _beat_uri(folder: str, number: int) -> str:
    return io.join(folder, f"beat-{number:06d}.json")


def _newest(folder: str) -> int:
    """The highest number of the leases in a folder, 0 for none."""
    names = [name for name in io.list_names(folder) if name.startswith("lease-") and name.endswith(".json")]
    numbers = [name.removeprefix("lease-").removesuffix(".json") for name in names]
    return max((int(number) for number in numbers if number.isdigit()), default=0)
