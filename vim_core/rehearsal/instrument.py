"""Measures a training from inside, step by step, without a change to what it computes.

Steps are timed as they are, without any profiler; the profiler then watches a few more for their parts.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vim_core.checkpoint.checkpoints import Checkpoints
from vim_core.checkpoint.shard_files import INDEX, step_folder
from vim_core.checkpoint.state_dict import flat_state_dict
from vim_core.data import counters
from vim_core.distributed import fsdp
from vim_core.distributed.runtimes.base import Runtime
from vim_core.rehearsal.processes import proportional_bytes, tree
from vim_core.rehearsal.profile import StepProfiler
from vim_core.rehearsal.schedule import PERIOD, Schedule
from vim_core.storage import io
from vim_core.tasks.base import Task
from vim_core.training.loop import OnStep


@dataclass
class Measurements:
    """Figures that one worker of a rehearsed training measured; bytes, seconds, counts.

    Attributes:
        step_seconds: wall clock of a step, the mean over the timed ones.
        part_seconds: of a step by part, `step_seconds` divided as the profiler saw it; on XLA the host's alone.
        compiled: programs compiled after the warm-up, which should have left none, by the number of steps done.
        reads: times a step that the host waited for a value of the device, by part.
        collectives, collective_bytes: of a step, by this worker.
        feed: images read, bytes read, images decoded and images used, up to the checkpoint.
        memory: proportional resident bytes of this process, then of those that it started.
        before: of this process before the training.
        peak_bytes: of tensors on the device; 0 where unknown.
        checkpoint: `seconds` until one is on disk, `waited` of them by the training, `bytes` of this worker.
    """

    step_seconds: float = 0.0
    part_seconds: dict[str, float] = field(default_factory=dict)
    compiled: dict[str, int] = field(default_factory=dict)
    reads: dict[str, float] = field(default_factory=dict)
    collectives: float = 0.0
    collective_bytes: float = 0.0
    feed: dict[str, int] = field(default_factory=dict)
    memory: list[int] = field(default_factory=list)
    before: int = 0
    peak_bytes: float = 0.0
    checkpoint: dict[str, float] = field(default_factory=dict)


class Instrument:
    """Measures a training whose course is `schedule`; its `on_step` is the loop's.

    Args:
        runtime: of this worker.
        schedule: the steps of the training.
        folder: a local folder for the feed's counts.
    """

    def __init__(self, runtime: Runtime, schedule: Schedule, folder: Path) -> None:
        self.runtime, self.schedule, self.folder = runtime, schedule, folder
        self.measured = Measurements(before=proportional_bytes(os.getpid()))
        self._profiler = StepProfiler(runtime.device)
        self._since = 0.0
        self._programs: list[int] = []
        self._reads: list[int] = []
        counters.start(folder)

    def watch(self, task: Task) -> OnStep:
        """Measure this training; its tensors are those that live from step to step."""
        self._profiler.owner = task
        return self.on_step

    def on_step(self, done: int, figures: Mapping[str, Tensor]) -> None:
        """See `vim_core.training.loop.OnStep`."""
        schedule, runtime, measured = self.schedule, self.runtime, self.measured
        if not schedule.warm <= done <= schedule.checkpoint:
            return
        self._programs.append(runtime.compiled_programs())
        self._reads.append(runtime.host_reads())
        if done in (schedule.warm, schedule.timed, schedule.checkpoint):
            runtime.synchronize()
        now = time.perf_counter()
        if done == schedule.warm:
            self._since = now
        elif done == schedule.timed:
            measured.step_seconds = (now - self._since) / (schedule.timed - schedule.warm)
            measured.memory = [proportional_bytes(process) for process in tree()]
            self._profiler.start()
        elif done == schedule.checkpoint:
            self._finish()

    def _finish(self) -> None:
        """Take what was counted and profiled."""
        schedule, measured = self.schedule, self.measured
        profile = self._profiler.stop(schedule.checkpoint - schedule.timed)
        steps = range(schedule.warm + 1, schedule.checkpoint + 1)
        xla = self.runtime.kind == "xla"
        # torch_xla compiles each program once more where a profiler begins.
        last = schedule.timed if xla else schedule.checkpoint
        compiled = zip(steps, (after - before for before, after in pairwise(self._programs)), strict=True)
        measured.compiled = {str(step): count for step, count in compiled if count and step <= last}
        measured.reads = profile.reads
        if xla:
            # XLA counts for the whole process: those of steps with a log line are taken for the line's.
            reads = dict(zip(steps, (after - before for before, after in pairwise(self._reads)), strict=True))
            log = sum(count for step, count in reads.items() if step % PERIOD == 0)
            measured.reads = {"log": log / len(steps), "step": (sum(reads.values()) - log) / len(steps)}
        whole = sum(profile.seconds.values()) or 1.0
        seconds = {part: measured.step_seconds * each / whole for part, each in profile.seconds.items()}
        measured.part_seconds, measured.peak_bytes = seconds, profile.peak_bytes
        measured.collectives, measured.collective_bytes = profile.collectives, profile.collective_bytes
        measured.feed = counters.totals(self.folder)
        counters.stop()


class MeasuredCheckpoints(Checkpoints):
    """Checkpoints that time themselves; `timing` is of the last one that was written."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.timing: dict[str, float] = {}

    def save(self, step: int, state: Mapping[str, Tensor]) -> None:
        """See `Checkpoints.save`."""
        began = time.perf_counter()
        super().save(step, state)
        size = sum(value.numel() * value.element_size() for value in (fsdp.local(each) for each in state.values()))
        timing = {"waited": time.perf_counter() - began, "bytes": float(size), "seconds": 0.0}

        def written(_: Future[Any]) -> None:
            timing["seconds"] = time.perf_counter() - began

        assert self._pending is not None
        (self._pending[2] or self._pending[1]).add_done_callback(written)
        self.timing = timing

    def forget_after(self, step: int) -> None:
        """Remove the checkpoints after `step` steps, as if the training had been killed before; for rank 0."""
        for later in [each for each in self._steps() if each > step]:
            # The index first: without it the rest counts for nothing.
            io.remove_tree(io.join(step_folder(self.folder, later), INDEX))
            io.remove_tree(step_folder(self.folder, later))


def state_digest(task: Task) -> str:
    """sha256 of all that a checkpoint of the task has, of this worker's part."""
    total = hashlib.sha256()
    for name, value in sorted(flat_state_dict(task.modules, task.optimizers).items()):
        tensor = task.runtime.to_host(fsdp.local(value))
        total.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        total.update(tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b"")
    return total.hexdigest()
