"""Processes by id and start time, so that an id which the system gave away again is told apart; background threads."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

OLD_TOLERANCE_S = 86_400.0
"""Start times in Unix seconds, as earlier versions recorded them, move when the clock is set; by less than a day."""


@dataclass(frozen=True)
class ProcessId:
    """A process of this machine; `started` is in clock ticks since boot (Linux) or in Unix seconds (elsewhere)."""

    pid: int
    started: str

    @property
    def alive(self) -> bool:
        """True while this process runs; a zombie does not."""
        import psutil

        now = start_time(self.pid)
        if now is None or now == self.started:
            return now is not None
        if "." not in self.started or "." in now:
            return False
        try:
            return abs(psutil.Process(self.pid).create_time() - float(self.started)) < OLD_TOLERANCE_S
        except (psutil.NoSuchProcess, ValueError):
            return False


def current() -> ProcessId:
    """This process."""
    return ProcessId(os.getpid(), start_time(os.getpid()) or "")


def start_time(pid: int) -> str | None:
    """The start time of the process with this id, as in `ProcessId.started`; None where none runs under this id."""
    import psutil

    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        stat = Path(f"/proc/{pid}/stat")
        if not stat.exists():
            return str(process.create_time())
        # Ticks since boot: unlike psutil's time they do not move when the clock is set.
        return stat.read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()[19]
    except (psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError, ValueError):
        return None  # psutil raises ValueError for a negative id


def machine() -> str:
    """The boot and the process namespace in which a process id means something."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return f"{socket.gethostname()} {uuid.getnode():x}"


@contextlib.contextmanager
def background_thread(name: str, work: Callable[[threading.Event], None]) -> Iterator[None]:
    """Run `work(stop)` in a daemon thread meanwhile; at the end `stop` is set and the thread waited for."""
    stop = threading.Event()
    thread = threading.Thread(target=work, args=(stop,), name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
