"""Memory of this process and of those that it started, from the kernel's own books."""

from __future__ import annotations

import os
from pathlib import Path

PROC = Path("/proc")


def tree(process: int | None = None) -> list[int]:
    """This process and all below it; those that end meanwhile are left out."""
    process = os.getpid() if process is None else process
    below: list[int] = []
    try:
        for path in (PROC / str(process) / "task").iterdir():
            below += [int(number) for number in (path / "children").read_text().split()]
    except OSError:
        pass
    return [process, *(each for child in below for each in tree(child))]


def proportional_bytes(process: int) -> int:
    """Proportional set size: resident memory, with pages that several processes share divided among them.

    0 where the kernel does not tell, as for a process that has ended.
    """
    try:
        for line in (PROC / str(process) / "smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return 1024 * int(line.split()[1])
    except (OSError, ValueError):
        pass
    return 0
