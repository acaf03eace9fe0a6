"""The training loop: restore, step, log, checkpoint; the same for every task."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from vim_core.checkpoint.checkpoints import Checkpoints
from vim_core.checkpoint.state_dict import flat_state_dict, restore
from vim_core.distributed.runtimes.base import Runtime
from vim_core.tasks.base import Batch, Task
from vim_core.training.flops import PeakRates
from vim_core.training.monitor import OnEvaluated, TrainingMonitor
from vim_core.training.nonfinite import raise_nonfinite
from vim_core.training.preemption import Preempted, Preemption, PreemptionMonitor
from vim_core.training.spool import Spool
from vim_core.training.watchdog import Watchdog


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


def train(
    task: Task,
    checkpoints: Checkpoints,
    spool: Spool | None,
    data_workers: int = 0,
    notices: PreemptionMonitor | None = None,
    watchdog: Watchdog | None = None,
    *,
    yardstick: PeakRates | None = None,
    on_evaluated: OnEvaluated | None = None,
) -> int:
    """Run the task to its last step, continuing from the newest checkpoint. Rank 0 brings the spool.

    Returns the step that training continued from (0 for a fresh start). `yardstick` holds the rates that the achieved
    one is compared with; `on_evaluated` is told the figures of every evaluation during training.

    Raises:
        ResumeError: the checkpoint belongs to another training.
        NonFiniteError: a loss or gradient was not finite and `on_nonfinite` is `halt`.
        StorageError: a checkpoint could not be written and `checkpoint_errors` is 'fail'.
        Stopped: a notice asked for it; the checkpoint is written.
    """
    config, runtime = task.config, task.runtime
    start = _resume(task, checkpoints)
    runtime.shard(task.modules, task.optimizers)
    if spool is not None:
        spool.truncate(start)
    watchdog = watchdog or Watchdog(Path(), 0)
    try:
        with TrainingMonitor(task, spool, start, yardstick, on_evaluated) as watch:
            watchdog.step(start)
            for step, batch in enumerate(watch.batches(batches(task, start, data_workers)), start):
                runtime.seed_step(config.seed, step)
                figures = task.step(step, runtime.place(batch, config.accumulate))
                runtime.end_step()
                done = step + 1
                logged = done % config.log_every == 0 or done == config.steps
                planned = done % config.checkpoint_every == 0 or done == config.steps
                if logged or planned:
                    raise_nonfinite(task, spool)
                if done == config.steps:
                    # The last evaluation is waited for, and is no step.
                    watchdog.rest()
                watch.step(done, _over_workers(runtime, figures) if logged else figures)
                notice = notices.look(done) if notices else Preemption.NONE
                if planned or notice is not Preemption.NONE:
                    watchdog.rest()
                    with watch.paused():
                        _checkpoint(task, checkpoints, done, notice)
                        if planned:
                            watch.pictures(done)
                if done < config.steps:
                    watchdog.step(done)
            watchdog.rest()
            checkpoints.wait()
            watch.finish()
    finally:
        watchdog.rest()
        checkpoints.close()
    return start


def _over_workers(runtime: Runtime, figures: dict[str, Tensor]) -> dict[str, Tensor]:
    """The mean of each worker's figures: what one worker with the whole batch would say."""
    if runtime.world == 1:
        return figures
    values = torch.stack([value.detach().float().to(runtime.device) for value in figures.values()])
    return dict(zip(figures, runtime.mean(values), strict=True))


def _resume(task: Task, checkpoints: Checkpoints) -> int:
    saved = checkpoints.latest()
    if saved is None:
        return 0
    restore(saved, task.modules, task.optimizers)
    return saved.step


def _checkpoint(task: Task, checkpoints: Checkpoints, done: int, notice: Preemption) -> None:
    checkpoints.save(done, flat_state_dict(task.modules, task.optimizers))
    if notice is Preemption.NONE:
        return
    # The machine may be gone before the next step ends.
    written = checkpoints.wait()
    if notice is Preemption.STOP:
        how = "written below" if written else "could not be written below"
        raise Preempted(f"told to end; checkpoint of step {done} {how} {checkpoints.folder}")
