"""Train a task in this process, without Ray, Beam or a pipeline."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path

from torch import Tensor

from vim_core.checkpoint.checkpoints import Checkpoints
from vim_core.storage import io
from vim_core.tasks.base import Task
from vim_core.training.loop import OnStep, train
from vim_core.training.spool import Spool


def fit(task: Task, folder: str | Path, data_workers: int = 0, *, progress: bool = True) -> dict[str, float]:
    """Train to the last step, continuing from the newest checkpoint in the folder; returns the final figures.

    Args:
        task: a tokenizer, prior, classifier or probe with its data and runtime.
        folder: a local folder that takes the model (`model.safetensors`, `config.json`, as `from_pretrained` reads
            them), `metrics.jsonl` and `checkpoints/`.
        data_workers: processes that prepare batches (0: this one).
        progress: show a bar with the loss and the time left, in a terminal or a notebook.

    Raises:
        ResumeError: the folder's checkpoints belong to another kind of task or other settings.
        NonFiniteError: a loss or gradient was not finite and `on_nonfinite` is `halt`.
    """
    folder = Path(folder)
    identity = {"task": type(task).__name__, "config": dataclasses.asdict(task.config)}
    checkpoints = Checkpoints(str(folder / "checkpoints"), identity, task.runtime, task.config.keep, task.config.best)
    spool, on_evaluated = Spool(folder / "metrics.jsonl"), checkpoints.record_evaluation
    with _bar(task) if progress else contextlib.nullcontext(lambda done, figures: None) as on_step:
        train(task, checkpoints, spool, data_workers, on_evaluated=on_evaluated, on_step=on_step)
    figures = task.finish()
    for name, data in task.export().items():
        io.write_bytes(str(folder / name), data)
    return figures


@contextlib.contextmanager
def _bar(task: Task) -> Iterator[OnStep]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, TextColumn("{task.fields[loss]}")) as bar:
        name = type(task).__name__.removesuffix("Task").lower()
        number = bar.add_task(name, total=task.config.steps, loss="")

        def show(done: int, figures: Mapping[str, Tensor]) -> None:
            bar.update(number, completed=done)
            if done % task.config.log_every == 0 or done == task.config.steps:
                bar.update(number, loss=f"loss {float(figures['loss']):.4g}")

        yield show
