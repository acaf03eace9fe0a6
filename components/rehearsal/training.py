"""A rehearsed training: measured to its end, killed, continued from its checkpoint, compared bit for bit.

Under Ray Train a worker kills itself and is started again; in this process the training is only begun anew.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch

from vim_core.checkpoint.checkpoints import Checkpoints
from vim_core.distributed.runtimes.base import Runtime
from vim_core.rehearsal.instrument import Instrument, MeasuredCheckpoints, state_digest
from vim_core.rehearsal.schedule import Schedule
from vim_core.storage import io
from vim_core.tasks.base import Task
from vim_core.training.loop import OnStep

C = TypeVar("C", bound=Checkpoints)
Watch = Callable[[Task], OnStep]
"""Gets the task before its first step; returns what is called after each."""

FOLDER = "rehearsal"
"""Folder below the work folder with a record of each worker."""
KILL_S = 120.0
"""Seconds within which Ray must end the other workers of one that was killed."""


class Attempt(Protocol):
    """Trains to the end, with checkpoints of a kind, watched.

    Returns the task, its checkpoints, and the step that it continued from.
    """

    def __call__(self, kind: type[C], watch: Watch = ..., /) -> tuple[Task, C, int]:
        """Train."""


def rehearse(
    attempt: Attempt, runtime: Runtime, schedule: Schedule, work: str, scratch: Path, kills: bool
) -> tuple[Task, int]:
    """Train twice: whole and measured, then from the checkpoint of `schedule` to the end; returns the second's task.

    Every worker of the training calls it; where `kills` is set one of them ends itself between the two.

    Args:
        attempt: see `Attempt`.
        runtime: of this worker.
        schedule: the course of the training.
        work: the training's work folder, path or URI.
        scratch: a local folder.
        kills: Ray starts lost workers again.
    """
    uri = io.join(work, FOLDER, f"worker-{runtime.rank:05d}.json")
    if not io.exists(uri):
        instrument = Instrument(runtime, schedule, scratch / f"feed-{runtime.rank:05d}")
        task, checkpoints, _ = attempt(MeasuredCheckpoints, instrument.watch)
        measured = instrument.measured
        measured.checkpoint = checkpoints.timing
        record = asdict(measured) | {"digest": state_digest(task)}
        io.write_bytes(uri, json.dumps(record).encode())
        _barrier(runtime)
        if runtime.rank == 0:
            checkpoints.forget_after(schedule.checkpoint)
        _barrier(runtime)
        if kills:
            if runtime.rank == runtime.world - 1:
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(KILL_S)
        del task, checkpoints
    record = json.loads(io.read_bytes(uri))
    task, _, start = attempt(Checkpoints)
    record["resume"] = {"step": start, "equal": state_digest(task) == record["digest"], "killed": kills}
    io.write_bytes(uri, json.dumps(record).encode())
    _barrier(runtime)
    return task, start


def records(work: str, world: int) -> list[dict[str, Any]]:
    """The records of all workers in rank order."""
    return [json.loads(io.read_bytes(io.join(work, FOLDER, f"worker-{rank:05d}.json"))) for rank in range(world)]


def _barrier(runtime: Runtime) -> None:
    runtime.gather_host(torch.zeros(1))
