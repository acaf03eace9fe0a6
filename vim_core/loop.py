"""The training loop: restore, step, log, checkpoint; the same for every task."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from vim_core.checkpoint import Checkpoints, flatten, restore
from vim_core.spool import Spool
from vim_core.tasks.base import Batch, Task


class _Steps(Dataset[Batch]):
    """Batches by step number; workers may prepare them in any order because each is a pure function of its step."""

    def __init__(self, task: Task) -> None:
        self.task = task

    def __getitem__(self, step: int) -> Batch:
        return self.task.batch(step)


def batches(task: Task, start: int, workers: int) -> Iterator[Batch]:
    """Batches of steps `start …` in order, prepared by `workers` processes (0: in this one)."""
    steps = range(start, task.config.steps)
    loader = DataLoader(_Steps(task), batch_size=None, sampler=steps, num_workers=workers)
    return iter(loader)


@dataclass
class Meter:
    """Figures since the last log line: throughput, and how many updates were skipped."""

    unit: str
    started: float = 0.0
    samples: int = 0
    skipped: Tensor | None = None

    def begin(self) -> None:
        """Start a new interval."""
        self.started, self.samples, self.skipped = time.perf_counter(), 0, None

    def add(self, samples: int, skipped: Tensor) -> None:
        """Count one step without synchronising the device."""
        self.samples += samples
        self.skipped = skipped if self.skipped is None else self.skipped + skipped

    def row(self, figures: dict[str, Tensor]) -> dict[str, float]:
        """The interval's log line: the last step's figures, the sum of skipped updates, the rate."""
        values = {name: float(value) for name, value in figures.items()}
        values["skipped"] = float(self.skipped) if self.skipped is not None else 0.0
        values[f"{self.unit}_per_s"] = self.samples / max(1e-9, time.perf_counter() - self.started)
        return values


def train(task: Task, checkpoints: Checkpoints, spool: Spool | None, data_workers: int = 0) -> int:
    """Run the task to its last step, continuing from the newest checkpoint. Rank 0 brings the spool.

    Returns the step that training continued from (0 for a fresh start).

    Raises:
        ResumeError: the checkpoint belongs to another training.
    """
    config, runtime = task.config, task.runtime
    found = checkpoints.latest()
    start = 0
    if found is not None:
        start, state = found
        restore(state, task.modules, task.optimizers)
    if spool is not None:
        spool.cut(start)
    meter = Meter(task.unit)
    meter.begin()
    for step, batch in enumerate(batches(task, start, data_workers), start):
        runtime.seed_step(config.seed, step)
        figures = task.step(step, {name: value.to(runtime.device) for name, value in batch.items()})
        meter.add(config.batch, figures["skipped"])
        done = step + 1
        if spool is not None and (done % config.log_every == 0 or done == config.steps):
            spool.write(step, meter.row(figures))
            meter.begin()
        if done % config.checkpoint_every == 0 or done == config.steps:
            _checkpoint(task, checkpoints, spool, done)
            meter.begin()
    return start


def _checkpoint(task: Task, checkpoints: Checkpoints, spool: Spool | None, done: int) -> None:
    if spool is None:
        return
    checkpoints.save(done, flatten(task.modules, task.optimizers))
    with torch.inference_mode():
        for name, png in task.pictures().items():
            spool.picture(done - 1, name, png)
