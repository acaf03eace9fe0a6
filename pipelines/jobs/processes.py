"""Finding and ending processes of this machine."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable

import psutil

TERMINATE_S = 10.0


def with_variable(variable: str, value: str) -> list[int]:
    """The ids of this user's processes that were started with this environment variable."""
    pids = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.environ().get(variable) == value:
                pids.append(process.pid)
    return pids


def terminate(pids: Iterable[int]) -> None:
    """End these processes and all their children: SIGTERM, ten seconds, then SIGKILL."""
    family: dict[int, psutil.Process] = {}
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(pid)
            family |= {member.pid: member for member in (process, *process.children(recursive=True))}
    for act in ("terminate", "kill"):
        for process in family.values():
            with contextlib.suppress(psutil.NoSuchProcess):
                getattr(process, act)()  # psutil checks that the id still belongs to this process
        psutil.wait_procs(list(family.values()), timeout=TERMINATE_S)
