"""Preemption: workers poll for notices every few steps and agree on whether to save or to stop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import IntEnum

import torch

from vim_core.distributed.runtimes.base import Runtime


class Preemption(IntEnum):
    """Action that a preemption notice demands of the training; the larger value wins."""

    NONE = 0
    SAVE = 1
    """The machine may be taken soon: write a checkpoint and go on."""
    STOP = 2
    """This process must end: write a checkpoint and leave."""


class Preempted(Exception):
    """The training wrote a checkpoint and left, because a worker was told to end; it can be started again."""


class PreemptionMonitor:
    """Polls the sources every `every` steps.

    A notice to one worker counts for all: they must write their shards of the same step. SAVE is obeyed once.

    Args:
        runtime: of this worker.
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
            notice = Preemption(int(self.runtime.gather_host(torch.tensor([int(notice)])).max()))
        repeated = notice is Preemption.SAVE and self._saved
        self._saved = notice is Preemption.SAVE
        return Preemption.NONE if repeated else notice
