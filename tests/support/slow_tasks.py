"""Trainings slow enough to be interrupted at a chosen step; workers import them by name."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

from torch import Tensor

from vim_core.config import PriorConfig
from vim_core.distributed.runtimes.base import Runtime
from vim_core.tasks.base import Batch
from vim_core.tasks.prior import PriorData, PriorTask
from vim_core.tasks.quantizer import QuantizerTask

STEP_S = 0.1


class SlowPrior(PriorTask):
    """Takes its time over each step, and never ends the one that a file beside its data names; once."""

    def __init__(self, config: PriorConfig, data: PriorData, runtime: Runtime) -> None:
        super().__init__(config, data, runtime)
        self.place = Path(str(data.train[0])).parent

    def step(self, step: int, batch: Batch) -> dict[str, Tensor]:
        """As the prior does, later."""
        time.sleep(STEP_S)
        # Whoever takes the file away is stuck; of two workers at the same step the other goes on and waits for it.
        with contextlib.suppress(FileNotFoundError):
            (self.place / f"stuck-at-{step}").unlink()
            time.sleep(600)
        return super().step(step, batch)


class SlowQuantizer(QuantizerTask):
    """Takes its time over each step."""

    def step(self, step: int, batch: Batch) -> dict[str, Tensor]:
        """As the tokenizer does, later."""
        time.sleep(STEP_S)
        return super().step(step, batch)
