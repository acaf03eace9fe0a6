"""Training tasks slow enough to be interrupted at a chosen step; workers import them by name."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

from torch import Tensor

from vim_core.config import PriorConfig
from vim_core.distributed.runtimes.base import Runtime
from vim_core.tasks.base import Batch
from vim_core.tasks.prior import PriorData, PriorTask

STEP_S = 0.1


class SlowPrior(PriorTask):
    """A prior that sleeps in every step, and hangs once at the step of a file `stuck-at-<step>` beside its data."""

    def __init__(self, config: PriorConfig, data: PriorData, runtime: Runtime) -> None:
        super().__init__(config, data, runtime)
        self.folder = Path(str(data.train[0])).parent

    def step(self, step: int, batch: Batch) -> dict[str, Tensor]:
        """One update, after a pause."""
        time.sleep(STEP_S)
        # The worker that removes the file hangs; of two workers the other one goes on and waits for it.
        with contextlib.suppress(FileNotFoundError):
            (self.folder / f"stuck-at-{step}").unlink()
            time.sleep(600)
        return super().step(step, batch)
