"""Monitoring of a training: metrics, pictures, evaluations, a summary. It changes no bits of the weights."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from types import TracebackType

import torch
from torch import Tensor
from torch.profiler import record_function

from vim_core.tasks.base import Task
from vim_core.text import duration
from vim_core.training.evaluation import BackgroundThread, evaluation_device
from vim_core.training.flops import PeakRates
from vim_core.training.spool import Spool
from vim_core.training.throughput import ThroughputMeter, learning_rates, peak_memory
from vim_core.training.usage_watch import ALARM, USAGE

OnEvaluated = Callable[[int, dict[str, float]], None]
"""Called with the steps done and the metrics of their weights, such as `psnr_db`, in the training's thread."""


class TrainingMonitor:
    """Monitors one training; a context manager around its steps. Ranks without a spool (all but 0) write nothing.

    Every `evaluate_every` steps a copy of the weights is evaluated in the background. An evaluation that is due while
    the last one still runs is left out: a slow evaluation costs points of a curve, never time. With evaluations on, the
    weights after the last step are always evaluated. Every rank takes part in every copy, because no rank has the whole
    of a sharded network.

    Args:
        spool: takes metrics and pictures; already truncated to `start`.
        start: steps done when the training continues from a checkpoint, else 0.
        peaks: rates that the achieved one is compared with.
        on_evaluated: see `OnEvaluated`.
    """

    def __init__(
        self,
        task: Task,
        spool: Spool | None,
        start: int = 0,
        peaks: PeakRates | None = None,
        on_evaluated: OnEvaluated | None = None,
    ) -> None:
        self.task, self.spool, self.config = task, spool, task.config
        self.meter = ThroughputMeter(sum(task.flops().values()), peaks or PeakRates())
        self.start = start
        self.best: tuple[int, float] | None = None
        device = evaluation_device(task.runtime.device)
        self._evaluator: BackgroundThread[float] = BackgroundThread(device, "evaluation")
        self._painter: BackgroundThread[bytes] = BackgroundThread(device, "drawing")
        self._on_evaluated = on_evaluated

    def __enter__(self) -> TrainingMonitor:
        evaluated = self._restore_best()
        if self.start and self._due(self.start):
            # The process may have died before the evaluation of its last checkpoint was written.
            self._evaluate(self.start, self.start not in evaluated)
        self._began = time.perf_counter()
        self.meter.begin()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._evaluator.close()
        self._painter.close()

    @record_function("vim.log")
    def step(self, done: int, figures: dict[str, Tensor]) -> None:
        """After every step: count it; when due, write a row and start or collect an evaluation."""
        self.meter.add(self.config.batch, figures)
        if self.spool is not None and (done % self.config.log_every == 0 or done == self.config.steps):
            rates = learning_rates(self.task.optimizers) | peak_memory(self.task.runtime.device)
            self.spool.write(done - 1, rates | self.meter.row(figures))
        last = done == self.config.steps
        if self._due(done):
            with self.meter.paused():
                self._collect(wait=last)
                self._evaluate(done, not self._evaluator.busy)
        self._collect()
        self._collect_pictures()

    def pictures(self, done: int) -> None:
        """Draw the task's pictures of the current weights; torch's generator is left as it was.

        In a thread of its own where `Runtime.draws_beside`, so that the training goes on. Pictures that are due while
        the last ones are still drawn are left out and noted, but those at the end. Every worker calls it: a sharded
        network is gathered from all of them.
        """
        runtime, last = self.task.runtime, done == self.config.steps
        alone = runtime.parallel == "data" and not runtime.lockstep
        if self.spool is None and alone:
            return
        self._collect_pictures(wait=last)
        beside = runtime.draws_beside(sum(p.numel() * p.element_size() for p in self.task.drawn_parameters()))
        left_out = beside and self._painter.busy
        if left_out and self.spool is not None:
            self.spool.write_note(f"no pictures after {done:,} steps: the last ones are still being drawn")
        if left_out and alone:
            return
        devices = [runtime.device] if runtime.device.type == "cuda" else []
        with torch.random.fork_rng(devices), torch.no_grad():
            drawing = self.task.drawing(beside)
            if drawing is None or self.spool is None or left_out:
                return
            if not beside:
                self._write_pictures(done, drawing(lambda: None))
                return
        self._painter.start(done, drawing)

    def _collect_pictures(self, wait: bool = False) -> None:
        """Write the pictures that were drawn beside the training, if they are there."""
        outcome = self._painter.poll(wait)
        if outcome is None or self.spool is None:
            return
        if outcome.error:
            self.spool.write_note(f"the pictures after {outcome.done:,} steps failed: {outcome.error}")
        self._write_pictures(outcome.done, outcome.results)

    def _write_pictures(self, done: int, pictures: dict[str, bytes]) -> None:
        """Hand pictures of the weights after `done` steps to the spool, which is there."""
        assert self.spool is not None
        for name, png in pictures.items():
            self.spool.write_picture(done - 1, name, png)

    def raise_collapse(self, done: int) -> None:
        """End the training where the task's watch says so, on every worker; the last step is the gates' matter.

        Raises:
            CollapseError: too little of the codebook is in use.
        """
        if self.task.watch is not None and done < self.config.steps:
            self.task.watch.raise_collapse(self.task.runtime)

    def finish(self) -> None:
        """Wait for the last evaluation and pictures and write a summary of the training, unless no step was made."""
        self._collect(wait=True)
        self._collect_pictures(wait=True)
        if self.spool is not None and self.meter.total.steps:
            self.spool.write_summary(self.config.steps - 1, self.summary())

    def summary(self) -> str:
        """Steps, time, rate, utilisation and the best evaluation, in one line."""
        total = self.meter.total
        speed, seconds = self.meter.speed(total), time.perf_counter() - self._began
        parts = [f"{total.steps:,} steps in {duration(seconds)}", f"{speed['images_per_s']:,.1f} images/s"]
        shares = {"system/mfu": "MFU {:.1%}", "system/share_of_measured": "{:.1%} of the measured product rate"}
        parts += [text.format(speed[name]) for name, text in shares.items() if name in speed]
        if self.best is not None:
            step, value = self.best
            parts.append(f"best {self.task.headline[0]} {value:.5g} after {step:,} steps")
        parts += [text] if self.task.watch is not None and (text := self.task.watch.summary()) else []
        return ", ".join(parts)

    def _due(self, done: int) -> bool:
        every = self.config.evaluate_every
        return every > 0 and (done % every == 0 or done == self.config.steps)

    def _evaluate(self, done: int, wanted: bool) -> None:
        """Copy the weights, on every rank, and start to evaluate them if `wanted`."""
        evaluation = self.task.evaluation()
        if wanted and evaluation is not None and self.spool is not None:
            self._evaluator.start(done, evaluation)

    def _collect(self, wait: bool = False) -> None:
        """Write the metrics of a finished evaluation, if there is one."""
        result = self._evaluator.poll(wait)
        if result is None or self.spool is None:
            return
        if result.error:
            self.spool.write_note(f"the evaluation after {result.done:,} steps failed: {result.error}")
            return
        measured = result.results | {"seconds": result.seconds}
        self._update_best(result.done, measured.get(self.task.headline[0], math.nan))
        figures, text = self.task.watch.observe(result.done, measured) if self.task.watch else ({}, "")
        if text:
            self.spool.write_note(text, tags={ALARM: self.task.watch.summary() if self.task.watch else ""})
        row = {f"eval/{name}": value for name, value in (measured | figures).items()}
        if self.best is not None:
            row["eval/best_step"] = float(self.best[0])
        self.spool.write(result.done - 1, row)
        if self._on_evaluated is not None:
            self._on_evaluated(result.done, measured)

    def _update_best(self, done: int, value: float) -> None:
        sign = self.task.headline[1]
        if math.isfinite(value) and (self.best is None or sign * value > sign * self.best[1]):
            self.best = done, value

    def _restore_best(self) -> set[int]:
        """Find the best evaluation in the spool of the earlier process, and what the watch knew.

        Returns the steps that were evaluated.
        """
        name, evaluated = f"eval/{self.task.headline[0]}", set()
        for row in self.spool.rows() if self.spool is not None else []:
            if name in row.get("m", {}):
                self._update_best(row["step"] + 1, row["m"][name])
                evaluated.add(row["step"] + 1)
            if self.task.watch is not None and f"eval/{USAGE}" in row.get("m", {}):
                self.task.watch.observe(row["step"] + 1, {USAGE: row["m"][f"eval/{USAGE}"]})
        return evaluated
