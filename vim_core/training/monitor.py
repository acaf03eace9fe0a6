"""What people see of a training while it runs: figures, pictures, evaluations, a last line. It changes no bits."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from types import TracebackType
from typing import TypeVar

import torch
from torch import Tensor

from vim_core.tasks.base import Task
from vim_core.training.evaluation import BackgroundEvaluator, EvaluationResult, evaluation_device
from vim_core.training.flops import PeakRates
from vim_core.training.spool import Spool
from vim_core.training.throughput import ThroughputMeter, learning_rates, memory

T = TypeVar("T")
OnEvaluated = Callable[[int, dict[str, float]], None]
"""Told the steps done and the figures of their weights, such as `psnr_db`, in the training's own thread."""


class TrainingMonitor:
    """Watches one training; use it as a context manager around the steps. Without a spool (other ranks) it is silent.

    Every `evaluate_every` steps it scores a copy of the weights in the background; a turn that comes while the last one
    is still running is left out, so a slow evaluation costs points of a curve and never time. With evaluations on, the
    last step's weights are always evaluated. Every rank takes part in every copy, because of a network that is split
    over them no rank has the whole.

    Args:
        task: the training.
        spool: takes figures and pictures; `cut` to `start`.
        start: steps done when the training continues from a checkpoint, else 0.
        yardstick: rates to hold the achieved one against.
        on_evaluated: see `OnEvaluated`.
    """

    def __init__(
        self,
        task: Task,
        spool: Spool | None,
        start: int = 0,
        yardstick: PeakRates | None = None,
        on_evaluated: OnEvaluated | None = None,
    ) -> None:
        self.task, self.spool, self.config = task, spool, task.config
        self.meter = ThroughputMeter(task.unit, sum(task.flops().values()), yardstick or PeakRates())
        self.start = start
        self.best: tuple[int, float] | None = None
        self._evaluator = BackgroundEvaluator(evaluation_device(task.runtime.device))
        self._on_evaluated = on_evaluated
        self._began = time.perf_counter()

    def __enter__(self) -> TrainingMonitor:
        known = self._remember()
        if self.start and self._due(self.start):
            # The process may have died before the figures of its last checkpoint were there.
            self._evaluate(self.start, self.start not in known)
        self._began = time.perf_counter()
        self.meter.begin()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._evaluator.close()

    def batches(self, source: Iterable[T]) -> Iterator[T]:
        """The same batches; waiting for them is measured."""
        return self.meter.waiting(source)

    def paused(self) -> AbstractContextManager[None]:
        """Around checkpoints and pictures, whose time is not the steps'."""
        return self.meter.paused()

    def step(self, done: int, figures: dict[str, Tensor]) -> None:
        """After every step: count it; write a line and begin or collect an evaluation when it is time."""
        self.meter.add(self.config.batch, figures)
        if self.spool is not None and (done % self.config.log_every == 0 or done == self.config.steps):
            rates = learning_rates(self.task.optimizers) | memory(self.task.runtime.device)
            self.spool.write(done - 1, rates | self.meter.row(figures))
        last = done == self.config.steps
        if self._due(done):
            with self.paused():
                self._collect(wait=last)
                self._evaluate(done, not self._evaluator.busy)
        self._collect()

    def pictures(self, done: int) -> None:
        """Draw the task's pictures of the present weights, without a trace in torch's generator.

        Every worker calls it: a sharded network is put together by all of them.
        """
        runtime = self.task.runtime
        if self.spool is None and runtime.parallel == "data" and not runtime.lockstep:
            return
        devices = [runtime.device] if runtime.device.type == "cuda" else []
        with torch.random.fork_rng(devices), torch.no_grad():
            pictures = self.task.pictures()
        if self.spool is not None:
            for name, png in pictures.items():
                self.spool.write_picture(done - 1, name, png)

    def finish(self) -> None:
        """Wait for the last evaluation and leave a line about the whole training, where a step was made."""
        self._collect(wait=True)
        if self.spool is not None and self.meter.total.steps:
            self.spool.write_summary(self.config.steps - 1, self.summary())

    def summary(self) -> str:
        """Steps, time, rate, use of the machine and the best evaluation, in one line."""
        total, hours = self.meter.total, (time.perf_counter() - self._began) / 3600
        speed, unit = self.meter.speed(total), self.task.unit
        took = f"{hours:.2f} h" if hours >= 1 else f"{60 * hours:.1f} min"
        parts = [f"{total.steps:,} steps in {took}", f"{speed[f'{unit}_per_s']:,.1f} {unit}/s"]
        shares = {"system/mfu": "MFU {:.1%}", "system/share_of_measured": "{:.1%} of the measured product rate"}
        parts += [text.format(speed[name]) for name, text in shares.items() if name in speed]
        if self.best is not None:
            step, value = self.best
            parts.append(f"best {self.task.headline[0]} {value:.5g} after {step:,} steps")
        return ", ".join(parts)

    def _due(self, done: int) -> bool:
        every = self.config.evaluate_every
        return every > 0 and (done % every == 0 or done == self.config.steps)

    def _evaluate(self, done: int, wanted: bool) -> None:
        """Copy the weights, on every rank, and begin to score them where that is wanted."""
        job = self.task.evaluation()
        if wanted and job is not None and self.spool is not None:
            self._evaluator.begin(done, job)

    def _collect(self, wait: bool = False) -> None:
        """Take over a finished evaluation, if there is one."""
        found = self._evaluator.fetch(wait)
        if found is None or self.spool is None:
            return
        if found.error:
            self.spool.write_note(f"the evaluation after {found.done:,} steps failed: {found.error}")
            return
        self._compare(found)
        row = {f"eval/{name}": value for name, value in found.figures.items()}
        if self.best is not None:
            row["eval/best_step"] = float(self.best[0])
        self.spool.write(found.done - 1, row)
        if self._on_evaluated is not None:
            self._on_evaluated(found.done, found.figures)

    def _compare(self, found: EvaluationResult) -> None:
        name, sign = self.task.headline
        value = found.figures.get(name)
        if value is None or not math.isfinite(value):
            return
        if self.best is None or sign * value > sign * self.best[1]:
            self.best = found.done, value

    def _remember(self) -> set[int]:
        """Learn the best evaluation so far from what is left in the spool; the steps done of all that are there."""
        name, known = self.task.headline[0], set()
        for row in self.spool.rows() if self.spool is not None else []:
            if f"eval/{name}" in row.get("m", {}):
                self._compare(EvaluationResult(row["step"] + 1, {name: row["m"][f"eval/{name}"]}))
                known.add(row["step"] + 1)
        return known
