"""Processes named so that a process id which the system gave to another one meanwhile is never taken for them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass

import psutil

SAME_S = 2.0
"""Start times that psutil derives from the clock may move this far when the clock is set."""
PATIENCE_S = 10.0


@dataclass(frozen=True)
class Named:
    """A process by id and start time (Unix seconds)."""

    pid: int
    started: float

    def found(self) -> psutil.Process | None:
        """The process, or None where it has ended."""
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.started) < SAME_S
            return process if same and process.status() != psutil.STATUS_ZOMBIE else None
        return None


def named(pid: int) -> Named:
    """The process that has this id now. Raises `psutil.NoSuchProcess`."""
    return Named(pid, psutil.Process(pid).create_time())


def marked(variable: str, value: str) -> list[psutil.Process]:
    """Processes of this user that were started with this environment variable."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.environ().get(variable) == value:
                found.append(process)
    return found


def end(roots: Iterable[psutil.Process]) -> None:
    """End these processes and all they started: ask, wait, insist."""
    family: dict[int, psutil.Process] = {}
    for root in roots:
        with contextlib.suppress(psutil.NoSuchProcess):
            family |= {process.pid: process for process in (root, *root.children(recursive=True))}
    for number in ("terminate", "kill"):
        for process in family.values():
            with contextlib.suppress(psutil.NoSuchProcess):
                getattr(process, number)()  # psutil makes sure that the id still is this process's
        psutil.wait_procs(list(family.values()), timeout=PATIENCE_S)
