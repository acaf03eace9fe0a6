"""Training a task under Ray Train: what the driver asks for and what each worker does."""

from __future__ import annotations

import importlib
import json
import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from components.api import Context, Outcome
from vim_core import errors, io
from vim_core.config import TrainConfig

FINAL = "final"
"""Folder below the work folder where rank 0 leaves the finished files, `figures.json` last."""
REFUSAL = "refusal.json"
"""Left there by a worker that found a user's error, which no retry can mend."""


@dataclass
class Job:
    """One training: `task` is 'module:class', built as class(config, data, runtime) in every worker."""

    task: str
    config: TrainConfig
    data: Any
    work: str
    spool: str
    identity: dict[str, Any] = field(default_factory=dict)
    threads: int = 0
    device: str = "auto"
    data_workers: int = 0


def train(task: str, config: TrainConfig, data: Any, ctx: Context, local: bool = False) -> Outcome:
    """Train to the end (or attach to a finished training in the work folder) and hand over its files.

    Raises:
        VimError: whatever the worker refused, or why the training failed.
    """
    from components.ray_train import fit
    from components.shipping import Shipper

    job = Job(
        task,
        config,
        data,
        ctx.work,
        spool_path(ctx),
        {"component": ctx.name, "fingerprint": ctx.fingerprint},
        ctx.run.threads,
        ctx.run.device,
        ctx.run.data_workers,
    )
    ctx.progress.start(config.steps, "step")
    io.remove_tree(io.join(ctx.work, FINAL))
    with Shipper(job.spool, ctx.tracker, ctx.progress, announce=announcement):
        try:
            how = fit(work, {"job": job}, ctx, local)
        finally:
            _raise_refusal(ctx.work)
    figures = json.loads(io.read_bytes(io.join(ctx.work, FINAL, "figures.json")))
    return _outcome(figures, how, ctx)


def spool_path(ctx: Context) -> str:
    """Where rank 0 appends its metrics; always a local file."""
    if io.is_local(ctx.work):
        return str(io.local_path(ctx.work).absolute() / "spool.jsonl")
    return os.path.join(tempfile.gettempdir(), "vim-spool", ctx.fingerprint, "spool.jsonl")


def announcement(row: dict[str, Any]) -> str | None:
    """The line a person should see when training starts or resumes, from the spool's 'note' rows."""
    note = row.get("note")
    return str(note) if note else None


def _outcome(figures: dict[str, Any], how: str, ctx: Context) -> Outcome:
    names = [str(name) for name in figures["files"]]
    for name in names:
        io.write_bytes(ctx.path(name), io.read_bytes(io.join(ctx.work, FINAL, name)))
    return Outcome(
        metrics=figures["metrics"],
        properties={"trained_by": how, **figures["properties"]},
        numeric=figures["numeric"],
        extras=frozenset(n for n in names if n.startswith("pictures/") or n == "curves.jsonl"),
    )


def _raise_refusal(work: str) -> None:
    """Raise the user's error that a worker left, whatever became of the other workers."""
    place = io.join(work, FINAL, REFUSAL)
    if io.exists(place):
        record = json.loads(io.read_bytes(place))
        raise getattr(errors, record["type"])(record["message"])


def work(arguments: dict[str, Any]) -> None:
    """One worker process: train its share; rank 0 leaves the files. A user's error is handed over, not retried.

    Raises:
        VimError: one of several workers refused; the others must not wait for it.
    """
    from ray import train as ray_train

    job: Job = arguments["job"]
    context = ray_train.get_context()
    # A retry after a refusal ends at once.
    _raise_refusal(job.work)
    try:
        run_task(job, context.get_world_rank(), context.get_world_size(), context.get_local_rank())
    except errors.VimError as error:
        record = {"type": type(error).__name__, "message": str(error)}
        _leave(job, {REFUSAL: json.dumps(record).encode()})
        if context.get_world_size() > 1:
            raise


def run_task(job: Job, rank: int, world: int, local_rank: int) -> None:
    """Build the runtime and the task, train, evaluate, leave the files."""
    from vim_core import runtime as seam
    from vim_core.checkpoint import Checkpoints
    from vim_core.loop import train as loop
    from vim_core.runtime.measure import product_rate
    from vim_core.spool import Spool

    runtime = seam.create(job.device, job.config.precision, job.threads, rank, world, local_rank)
    rate = product_rate(runtime)
    module, name = job.task.split(":")
    task = getattr(importlib.import_module(module), name)(job.config, job.data, runtime)
    checkpoints = Checkpoints(io.join(job.work, runtime.numeric.name), job.identity)
    spool = Spool(Path(job.spool)) if rank == 0 else None
    if spool is not None:
        spool.note(f"{runtime.numeric.name}: matrix products at {rate:,.0f} GFLOP/s")
    start = loop(task, checkpoints, spool, job.data_workers)
    figures = task.finish()
    if rank == 0:
        numeric = {**runtime.numeric.record(), "product_gflops": round(rate, 1)}
        _leave(job, _files(task.export(), figures, {"resumed_from": start}, numeric, job))


def _files(
    exported: dict[str, bytes], metrics: dict[str, float], properties: dict[str, Any], numeric: dict[str, Any], job: Job
) -> dict[str, bytes]:
    from vim_core.spool import parse

    spool = Path(job.spool)
    curves = [json.dumps(row).encode() + b"\n" for row in parse(spool.read_bytes()) if "m" in row]
    files = {**exported, "curves.jsonl": b"".join(curves)}
    pictures = sorted(spool.with_name("pictures").glob("*.png"))
    files |= {f"pictures/{path.name}": path.read_bytes() for path in pictures[-8:]}
    figures = {"files": list(files), "metrics": metrics, "properties": properties, "numeric": numeric}
    return {**files, "figures.json": json.dumps(figures).encode()}


def _leave(job: Job, files: dict[str, bytes]) -> None:
    for name, data in files.items():
        io.write_bytes(io.join(job.work, FINAL, name), data)
