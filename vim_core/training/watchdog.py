"""A watchdog for steps: a process that hangs writes its stacks down and ends, so that it can be started again."""

from __future__ import annotations

import contextlib
import faulthandler
import os
from pathlib import Path
from typing import IO


class Watchdog:
    """Ends the process with exit code 1 when a step takes longer than `seconds`; 0 switches it off.

    The stacks of all threads go to `path` under a line that names the step. The timer is a thread outside of the
    interpreter (`faulthandler`), so a step that never returns from a compiler, a collective or a system call while it
    holds the interpreter's lock is noticed, too. A process has one such timer.
    """

    def __init__(self, path: Path, seconds: float, rank: int = 0) -> None:
        self.path = path
        self.seconds = seconds
        self.rank = rank
        self._file: IO[str] | None = None

    def start(self, step: int) -> None:
        """Start the timer anew for step `step`."""
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

    def stop(self) -> None:
        """Stop the timer between steps and remove the file."""
        if self._file is None:
            return
        faulthandler.cancel_dump_traceback_later()
        self._file.close()
        self._file = None
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)


def read_report(folder: Path) -> str | None:
    """The first line of a report that a watchdog left in `folder`, and its path; None if there is no report."""
    for path in sorted(folder.glob("*.txt")):
        text = path.read_text(encoding="utf-8", errors="replace")
        if "\nTimeout" in text:
            return f"{text.splitlines()[0]}; its stacks are in {path}"
    return None
