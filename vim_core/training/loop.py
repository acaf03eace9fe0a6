"""The training loop: resume, step, log, evaluate, checkpoint; the same for every task."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.profiler import record_function
from torch.utils.data import DataLoader, Dataset

from vim_core.checkpoint.checkpoints import Checkpoints
from vim_core.checkpoint.state_dict import flat_state_dict, restore
from vim_core.distributed.runtimes.base import Runtime
from vim_core.errors import CollapseError, NonFiniteError
from vim_core.tasks.base import Batch, Task
from vim_core.training.flops import PeakRates
from vim_core.training.interruptions import Preempted, Preemption, PreemptionMonitor, Watchdog
from vim_core.training.monitor import OnEvaluated, TrainingMonitor
from vim_core.training.spool import Spool

SHOWN_SAMPLES = 8
OnStep = Callable[[int, Mapping[str, Tensor]], None]
"""Called after every step with the number of steps done and the step's metrics, scalars on the device."""


def batches(task: Task, start: int, workers: int, spool: Spool | None = None) -> Generator[Batch, None, None]:
    """Batches of steps `start …` in order, prepared by `workers` processes (0: in this one); close it to end them.

    This process reads what each batch needs; workers may prepare them in any order, because each is a pure function of
    that. The spool takes notes on the use of memory.
    """
    for note in task.share_host(task.runtime.local_world * max(1, workers)):
        if spool is not None:
            spool.write_note(note, debug=True)
    with contextlib.closing(task.requests(start)) as requests:
        yield from DataLoader(
            _Prepared(task),
            batch_size=None,
            sampler=requests,
            num_workers=workers,
            pin_memory=task.runtime.pins_memory,
            # A task is not pickled: it holds networks, files and the table's keys, which forked workers share.
            multiprocessing_context="fork" if workers else None,
        )


class _Prepared(Dataset[Batch]):
    """A task's batches by request."""

    def __init__(self, task: Task) -> None:
        self.task = task

    def __getitem__(self, request: Any) -> Batch:
        return self.task.prepare(request)


def train(
    task: Task,
    checkpoints: Checkpoints,
    spool: Spool | None,
    data_workers: int = 0,
    preemption: PreemptionMonitor | None = None,
    watchdog: Watchdog | None = None,
    *,
    peaks: PeakRates | None = None,
    on_evaluated: OnEvaluated | None = None,
    on_step: OnStep = lambda done, figures: None,
) -> int:
    """Train the task to its last step, continuing from the newest checkpoint.

    Args:
        spool: takes metrics; rank 0 alone has one.
        data_workers: processes that prepare batches; 0 for this one.
        preemption: polled after every step.
        watchdog: ends the process when a step hangs.
        peaks: rates that the achieved one is compared with.
        on_evaluated, on_step: see `OnEvaluated` and `OnStep`; to read a metric makes the host wait for the device.

    Returns:
        The step that training continued from, 0 for a fresh start.

    Raises:
        ResumeError: the checkpoint belongs to another training.
        NonFiniteError: a loss or gradient was not finite and `on_nonfinite` is `halt`.
        StorageError: a checkpoint could not be written and `checkpoint_errors` is 'fail'.
        Preempted: a notice asked to stop; the checkpoint is written.
        CollapseError: less than `usage_halt` of a codebook is in use; the checkpoint is written.
    """
    config, runtime, watchdog = task.config, task.runtime, watchdog or Watchdog(Path(), 0)

    # 1. Resume.
    start = resume(task, checkpoints, spool)
    runtime.mark_sharding(task.modules, task.optimizers)

    try:
        feed = contextlib.closing(batches(task, start, data_workers, spool))
        with TrainingMonitor(task, spool, start, peaks, on_evaluated) as monitor, feed as prepared:
            monitor.raise_collapse(start)
            watchdog.start(start)
            timed = monitor.meter.time_batches(prepared)
            for step, batch in enumerate(runtime.to_device_ahead(timed, config.accumulate), start):
                # 2. Step: forward, backward, update.
                runtime.seed_step(config.seed, step)
                with runtime.product_precision():
                    figures = task.step(step, batch)
                runtime.end_step()
                done, last = step + 1, step + 1 == config.steps
                log_now, save_now = (last or done % n == 0 for n in (config.log_every, config.checkpoint_every))

                # 3. Skipped updates: before a checkpoint too, so that a kill after it loses no record.
                if log_now or save_now:
                    raise_nonfinite(task, spool)

                # 4. Log and evaluate. The last evaluation is waited for, which is no hanging step.
                if last:
                    watchdog.stop()
                monitor.step(done, mean_over_workers(runtime, figures) if log_now else figures)
                on_step(done, figures)

                # 5. Checkpoint: at its interval, at the end, and when the machine may be taken.
                notice = preemption.poll(done) if preemption else Preemption.NONE
                if save_now or notice is not Preemption.NONE:
                    watchdog.stop()
                    with monitor.meter.paused():
                        checkpoint(task, checkpoints, monitor, done, notice, save_now)
                if not last:
                    watchdog.start(done)

            # 6. End: the last checkpoint is on disk, the last evaluation is logged.
            watchdog.stop()
            checkpoints.wait()
            monitor.finish()
    finally:
        watchdog.stop()
        checkpoints.close()
    return start


def resume(task: Task, checkpoints: Checkpoints, spool: Spool | None) -> int:
    """Restore the state to continue from; returns the number of steps already done.

    Batches, noise and learning rates are functions of the step, so networks and optimizers are all the state. Cases:

    1. A checkpoint of this training is there: its state, and the step after it. Rows of the spool from that step on
       are dropped, because those steps are made again.
    2. None is there: step 0, with the networks as the task made them (drawn, or loaded from `init_from`).
    """
    saved = checkpoints.latest()
    start = 0 if saved is None else saved.step
    if saved is not None:
        restore(saved, task.modules, task.optimizers)
    if spool is not None:
        spool.truncate(start)
    return start


@record_function("vim.log")
def mean_over_workers(runtime: Runtime, figures: dict[str, Tensor]) -> dict[str, Tensor]:
    """The mean of each scalar over the workers: the value that one worker with the whole batch would have."""
    if runtime.world == 1:
        return figures
    values = torch.stack([value.detach().float().to(runtime.device) for value in figures.values()])  # [figures]
    return dict(zip(figures, runtime.mean(values), strict=True))


@record_function("vim.log")
def raise_nonfinite(task: Task, spool: Spool | None) -> None:
    """Record the skipped updates since the last call in the spool of rank 0, with the samples of their batches.

    Every worker calls it at the same steps.

    Raises:
        NonFiniteError: there was one and `on_nonfinite` is `halt`.
    """
    updates = task.nonfinite.drain()
    for step, terms in updates.items():
        if spool is not None:
            spool.write_nonfinite(step, terms, task.sample_ids(step))
    if updates and task.config.on_nonfinite == "halt":
        step, terms = next(iter(updates.items()))
        samples = task.sample_ids(step)
        shown = ", ".join(samples[:SHOWN_SAMPLES]) or "unknown"
        if len(samples) > SHOWN_SAMPLES:
            shown += f" and {len(samples) - SHOWN_SAMPLES} more (all in the spool)"
        raise NonFiniteError(
            f"step {step}: not finite: {', '.join(terms)}; samples of the batch: {shown}. The weights are those before "
            "it; on_nonfinite=skip goes on without such steps"
        )


def checkpoint(
    task: Task, checkpoints: Checkpoints, monitor: TrainingMonitor, done: int, notice: Preemption, regular: bool
) -> None:
    """Save the state after `done` steps; at a `regular` checkpoint also draw pictures and look for a collapse.

    Raises:
        Preempted, StorageError: see `save`.
        CollapseError: the task's watch halts the training; the checkpoint is on disk.
    """
    save(task, checkpoints, done, notice)
    if not regular:
        return
    monitor.pictures(done)
    try:
        monitor.raise_collapse(done)
    except CollapseError:
        checkpoints.wait()
        raise


def save(task: Task, checkpoints: Checkpoints, done: int, notice: Preemption) -> None:
    """Write the state after `done` steps; in the background, unless a preemption notice leaves no time for that.

    Raises:
        Preempted: the notice is STOP.
        StorageError: it could not be written and `checkpoint_errors` is 'fail'.
    """
    checkpoints.save(done, flat_state_dict(task.modules, task.optimizers))
    if notice is Preemption.NONE:
        return
    # The machine may be gone before the next step ends.
    written = checkpoints.wait()
    if notice is Preemption.STOP:
        outcome = "written below" if written else "could not be written below"
        raise Preempted(f"told to end; checkpoint of step {done} {outcome} {checkpoints.folder}")
