"""A watchdog for steps: a process that is stuck writes down where, and ends, so that it can be started again."""

from __future__ import annotations

import contextlib
import faulthandler
import os
from pathlib import Path
from typing import IO


class Watchdog:
    """Ends the process with exit code 1 when a step takes longer than `seconds`; 0 switches it off.

    The stacks of all threads go to `path` under a line that names the step. The clock is a thread outside of the
    interpreter (`faulthandler`), so a step that never returns from a compiler, a collective or a system call, holding
    the interpreter's lock, is noticed too. One process has one such clock.
    """

    def __init__(self, path: Path, seconds: float, rank: int = 0) -> None:
        self.path = path
        self.seconds = seconds
        self.rank = rank
        self._file: IO[str] | None = None

    def step(self, step: int) -> None:
        """Step `step` begins: start the clock anew."""
        if self.seconds <= 0:
            return
        if self._file is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(self.path, "w", encoding="utf-8")  # noqa: SIM115
        self._file.seek(0)
        self._file.truncate()
        self._file.write(f"worker {self.rank}: step {step} took longer than run.step_timeout_s={self.seconds:g}\n")
        self._file.flush()
        faulthandler.dump_traceback_later(self.seconds, exit=True, file=self._file)

    def rest(self) -> None:
        """No step runs: stop the clock and take the file away."""
        if self._file is None:
            return
        faulthandler.cancel_dump_traceback_later()
        self._file.close()
        self._file = None
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)


def read_report(folder: Path) -> str | None:
    """What a watchdog left in a folder: its first line and where the stacks lie; None where none barked."""
    for path in sorted(folder.glob("*.txt")):
        text = path.read_text(encoding="utf-8", errors="replace")
        if "\nTimeout" in text:
            return f"{text.splitlines()[0]}; where it stood is in {path}"
    return None
