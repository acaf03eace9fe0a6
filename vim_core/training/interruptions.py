"""Interruptions of a training: preemption notices, which workers agree on, and steps that hang.

Torch is imported in use alone, because the driver of a training imports this module.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import threading
from collections.abc import Callable, Sequence
from enum import IntEnum
from pathlib import Path
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from vim_core.distributed.runtimes.base import Runtime

_terminated = threading.Event()


class Preemption(IntEnum):
    """Action that a preemption notice demands of the training; the larger value wins."""

    NONE = 0
    SAVE = 1
    """The machine may be taken soon: write a checkpoint and go on."""
    STOP = 2
    """This process must end: write a checkpoint and leave."""


class Preempted(Exception):
    """The training wrote a checkpoint and left, because a worker was told to end; it can be started again."""


def listen() -> None:
    """Take SIGTERM as a notice from now on. Call it in the main thread, which Ray keeps free of the training."""
    _terminated.clear()
    signal.signal(signal.SIGTERM, lambda *_: _terminated.set())


def termination_notice() -> Preemption:
    """STOP once this process got SIGTERM."""
    return Preemption.STOP if _terminated.is_set() else Preemption.NONE


class PreemptionMonitor:
    """Polls the sources every `every` steps.

    A notice to one worker counts for all: they must write their shards of the same step. SAVE is obeyed once.

    Args:
        sources: each returns the notice that this worker got.
        every: steps between two polls, the same on every worker.
    """

    def __init__(self, runtime: Runtime, sources: Sequence[Callable[[], Preemption]] = (), every: int = 1) -> None:
        self.runtime = runtime
        self.sources = sources
        self.every = every
        self._saved = False

    def poll(self, done: int) -> Preemption:
        """The action that all workers take after `done` steps."""
        if not self.sources or done % self.every:
            return Preemption.NONE
        notice = max(source() for source in self.sources)
        if self.runtime.world > 1:
            import torch

            notice = Preemption(int(self.runtime.gather_host(torch.tensor([int(notice)])).max()))
        repeated = notice is Preemption.SAVE and self._saved
        self._saved = notice is Preemption.SAVE
        return Preemption.NONE if repeated else notice


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
