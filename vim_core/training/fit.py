"""Train a task in this process, without Ray, Beam or a pipeline."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from vim_core.checkpoint.checkpoints import Checkpoints
from vim_core.storage import io
from vim_core.tasks.base import Task
from vim_core.training.loop import train
from vim_core.training.spool import Spool


def fit(task: Task, folder: str | Path, data_workers: int = 0) -> dict[str, float]:
    """Train to the last step, continuing from the newest checkpoint in the folder; returns the final figures.

    Args:
        task: a tokenizer, prior, classifier or probe with its data and runtime.
        folder: a local folder that takes the model (`model.safetensors`, `config.json`, as `from_pretrained` reads
            them), `metrics.jsonl` and `checkpoints/`.
        data_workers: processes that prepare batches (0: this one).

    Raises:
        ResumeError: the folder's checkpoints belong to another kind of task or other settings.
        NonFiniteError: a loss or gradient was not finite and `on_nonfinite` is `halt`.
    """
    folder = Path(folder)
    identity = {"task": type(task).__name__, "config": dataclasses.asdict(task.config)}
    checkpoints = Checkpoints(str(folder / "checkpoints"), identity, task.runtime, task.config.keep, task.config.best)
    train(task, checkpoints, Spool(folder / "metrics.jsonl"), data_workers, on_evaluated=checkpoints.record_evaluation)
    figures = task.finish()
    for name, data in task.export().items():
        io.write_bytes(str(folder / name), data)
    return figures
