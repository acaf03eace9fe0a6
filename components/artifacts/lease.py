"""One owner for unfinished work (contract 11): numbered lease files, a heartbeat, takeover when the owner is gone.

Only exclusive creation is asked of the store, so it works on local disks and in buckets alike. The highest
number owns; an owner that is gone is never removed, the next number is created above it.
"""

from __future__ import annotations

import contextlib
import dataclasses
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
"""Of an owner on another machine, by the store's clock: without watching, clocks may differ and hearts may stall."""


@dataclasses.dataclass(frozen=True)
class Owner:
    """Who holds a lease: a process, named so that another process on the same machine can tell whether it lives."""

    token: str
    host: str
    machine: str
    pid: int
    started: str

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


@dataclasses.dataclass(frozen=True)
class Lease:
    """A held lease; `dead` is the former owner's token if it died on this machine and so can write no more."""

    folder: str
    number: int
    owner: Owner
    dead: str | None

    def owned(self) -> bool:
        """Whether nobody took the work over."""
        with guarded(self.folder):
            return max(_numbers(self.folder), default=0) == self.number

    def check(self) -> None:
        """Raise `StorageError` when another owner took the work over (this process was away too long)."""
        if not self.owned():
            other = _read_owner(self.folder, max(_numbers(self.folder), default=0)) or "another process"
            raise StorageError(f"{self.folder}: taken over by {other}; this attempt stops, let that one finish")


@contextlib.contextmanager
def hold(
    folder: str,
    note: Callable[[str], None],
    heartbeat: float = HEARTBEAT_S,
    stale: float = STALE_S,
    poll: float = POLL_S,
) -> Iterator[Lease]:
    """Own the work whose leases lie in `folder`, waiting while another living owner has it (all times in seconds).

    `note` gets one line for people when this has to wait or takes over. Raises `StorageError` for an unusable folder.
    """
    with guarded(folder):
        held = _acquire(folder, note, stale, poll)
    with _kept(held, heartbeat):
        yield held


@contextlib.contextmanager
def hold_if_free(folder: str, abandoned: float = ABANDONED_S, heartbeat: float = HEARTBEAT_S) -> Iterator[Lease | None]:
    """Own the work without waiting, or get None where somebody living does. Raises `StorageError`."""
    with guarded(folder):
        number = max(_numbers(folder), default=0)
        me = _myself()
        free = living(folder, abandoned) is None
        won = free and io.create_exclusive(_lease(folder, number + 1), json.dumps(dataclasses.asdict(me)).encode())
    if not won:
        yield None
        return
    held = Lease(folder, number + 1, me, None)
    with _kept(held, heartbeat):
        yield held


def living(folder: str, abandoned: float = ABANDONED_S) -> str | None:
    """Who owns the work now, for people, or None; an owner elsewhere lives until its heart is still for so long."""
    number = max(_numbers(folder), default=0)
    if not number or _released(_read_beat(folder, number)):
        return None
    owner = _read_owner(folder, number)
    alive = _alive(owner)
    if alive is None:
        names = (_lease(folder, number), _beat_uri(folder, number))
        alive = time.time() - max(map(io.mtime, names)) < abandoned
    return str(owner or "an unknown process") if alive else None


def _released(beat: bytes) -> bool:
    try:
        return bool(json.loads(beat)["released"])
    except (KeyError, TypeError, ValueError):
        return False


@contextlib.contextmanager
def _kept(held: Lease, heartbeat: float) -> Iterator[None]:
    stop = threading.Event()
    thread = threading.Thread(target=_keep_beating, args=(held, heartbeat, stop), name="lease-heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        _release(held)


def _acquire(folder: str, note: Callable[[str], None], stale: float, poll: float) -> Lease:
    me = _myself()
    told = False
    while True:
        number = max(_numbers(folder), default=0)
        dead = gone = None
        if number:
            watch = _Watch(folder, number, stale)
            while (end := watch.ended()) is None:
                if not told:
                    note(f"{watch.owner or 'another process'} is already working on this; waiting for it")
                    told = True
                time.sleep(poll)
            gone = (watch.owner or "an unknown process") if end in ("dead", "silent") else None
            dead = watch.owner.token if watch.owner and end == "dead" else None
        if io.create_exclusive(_lease(folder, number + 1), json.dumps(dataclasses.asdict(me)).encode()):
            if gone:
                note(f"taking over the unfinished work of {gone}, which is gone")
            return Lease(folder, number + 1, me, dead)


class _Watch:
    """Looks at one lease until it has ended.

    Watching for change with this machine's own clock needs no agreement between clocks. A process known to live keeps
    its lease even when its heartbeat stalls: two trainings in one place would be worse than waiting.
    """

    def __init__(self, folder: str, number: int, stale: float) -> None:
        self.folder, self.number, self.stale = folder, number, stale
        self.owner = _read_owner(folder, number)
        self.beat, self.since = b"", time.monotonic()

    def ended(self) -> str | None:
        """Why the lease is over: released, dead (process), silent (elsewhere), passed (a higher number); or None."""
        beat = _read_beat(self.folder, self.number)
        if beat != self.beat:
            self.beat, self.since = beat, time.monotonic()
        if beat and json.loads(beat)["released"]:
            return "released"
        alive = _alive(self.owner)
        if alive is False:
            return "dead"
        if alive is None and time.monotonic() - self.since > self.stale:
            return "silent"
        return "passed" if max(_numbers(self.folder), default=0) != self.number else None


def _keep_beating(held: Lease, every: float, stop: threading.Event) -> None:
    count = 0
    while True:
        try:
            _beat(held, count, released=False)
        except Exception as error:
            # The work goes on: `check` decides before the commit whether the lease was lost meanwhile.
            LOG.warning("heartbeat of %s failed: %s", held.folder, error)
        if stop.wait(every):
            return
        count += 1


def _release(held: Lease) -> None:
    try:
        _beat(held, -1, released=True)
    except Exception as error:
        LOG.warning("could not write the release of %s: %s", held.folder, error)
        # A full disk takes no new file, but one can be removed: without the lease, the work is free as well.
        with contextlib.suppress(Exception):
            io.remove_tree(_lease(held.folder, held.number))


def _beat(held: Lease, count: int, released: bool) -> None:
    beat = {"token": held.owner.token, "count": count, "time": time.time(), "released": released}
    io.write_bytes(_beat_uri(held.folder, held.number), json.dumps(beat).encode())


def _read_beat(folder: str, number: int) -> bytes:
    try:
        return io.read_bytes(_beat_uri(folder, number))
    except FileNotFoundError:
        return b""


def _read_owner(folder: str, number: int) -> Owner | None:
    try:
        return Owner(**json.loads(io.read_bytes(_lease(folder, number))))
    except (FileNotFoundError, TypeError, ValueError):
        return None


def _lease(folder: str, number: int) -> str:
    return io.join(folder, f"lease-{number:06d}.json")


def _beat_uri(folder: str, number: int) -> str:
    return io.join(folder, f"beat-{number:06d}.json")


def _numbers(folder: str) -> list[int]:
    names = [name for name in io.list_names(folder) if name.startswith("lease-") and name.endswith(".json")]
    numbers = [name.removeprefix("lease-").removesuffix(".json") for name in names]
    return [int(number) for number in numbers if number.isdigit()]


def _myself() -> Owner:
    me = process.current()
    return Owner(uuid.uuid4().hex[:12], socket.gethostname(), process.machine(), me.pid, me.started)


def _alive(owner: Owner | None) -> bool | None:
    """True where the owner's process runs, False where it has ended, None where this machine cannot know."""
    if owner is None or owner.machine != process.machine():
        return None
    return process.ProcessId(owner.pid, owner.started).alive
