"""Notices that a training will be interrupted: workers look for them every few steps and agree on what to do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import IntEnum

import torch

from vim_core.distributed.runtimes.base import Runtime


class Notice(IntEnum):
    """What somebody outside asks of the training; the larger wins."""

    NONE = 0
    SAVE = 1
    """The machine may soon be gone: write a checkpoint, go on."""
    STOP = 2
    """This process must end: write a checkpoint, then leave."""


class Stopped(Exception):
    """The training wrote a checkpoint and left, because a worker was told to end; it can be started again."""


class Notices:
    """Asks the sources every `every` steps.

    A notice to one worker is a notice to all: they must write their shards of the same step. SAVE is obeyed once.

    Args:
        runtime: of this worker.
        sources: each says what this worker was told.
        every: the same on every worker.
    """

    def __init__(self, runtime: Runtime, sources: Sequence[Callable[[], Notice]] = (), every: int = 1) -> None:
        self.runtime = runtime
        self.sources = sources
        self.every = every
        self._saved = False

    def look(self, done: int) -> Notice:
        """What to do after `done` steps."""
        if not self.sources or done % self.every:
            return Notice.NONE
        notice = self._agreed(max(source() for source in self.sources))
        again = notice is Notice.SAVE and self._saved
        self._saved = notice is Notice.SAVE
        return Notice.NONE if again else notice

    def _agreed(self, here: Notice) -> Notice:
        if self.runtime.world == 1:
            return here
        return Notice(int(self.runtime.control(torch.tensor([int(here)])).max()))
