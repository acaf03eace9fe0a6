"""Notices that a training will be interrupted: workers look for them every few steps and agree on what to do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import IntEnum

import torch

from vim_core.distributed.runtimes.base import Runtime


class Preemption(IntEnum):
    """What somebody outside asks of the training; the larger wins."""

    NONE = 0
    SAVE = 1
    """The machine may soon be gone: write a checkpoint, go on."""
    STOP = 2
    """This process must end: write a checkpoint, then leave."""


class Preempted(Exception):
    """The training wrote a checkpoint and left, because a worker was told to end; it can be started again."""


class PreemptionMonitor:
    """Asks the sources every `every` steps.

    A notice to one worker is a notice to all: they must write their shards of the same step. SAVE is obeyed once.

    Args:
        runtime: of this worker.
        sources: each says what this worker was told.
        every: the same on every worker.
    """

    def __init__(self, runtime: Runtime, sources: Sequence[Callable[[], Preemption]] = (), every: int = 1) -> None:
        self.runtime = runtime
        self.sources = sources
        self.every = every
        self._saved = False

    def look(self, done: int) -> Preemption:
        """What to do after `done` steps."""
        if not self.sources or done % self.every:
            return Preemption.NONE
        notice = self._agreed(max(source() for source in self.sources))
        again = notice is Preemption.SAVE and self._saved
        self._saved = notice is Preemption.SAVE
        return Preemption.NONE if again else notice

    def _agreed(self, here: Preemption) -> Preemption:
        if self.runtime.world == 1:
            return here
        return Preemption(int(self.runtime.control(torch.tensor([int(here)])).max()))
