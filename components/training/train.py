"""Training a task under Ray Train: what the driver asks for and what each worker does."""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.artifacts.scratch import scratch
from components.contract.api import Context, Outcome
from components.tracking.fault_log import NONFINITE
from components.tracking.node_samples import SYSTEM, Collector, sampled
from components.tracking.spool_mirror import SPOOL, Follower, Mirror, repeated
from vim_core import errors
from vim_core.config import RunConfig, TrainConfig
from vim_core.storage import io
from vim_core.training.watchdog import Watchdog, verdict

if TYPE_CHECKING:
    from vim_core.checkpoint.checkpoints import Checkpoints
    from vim_core.distributed.runtimes import Runtime
    from vim_core.training.preemption import Notice
    from vim_core.training.spool import Spool

FINAL = "final"
"""Folder below the work folder where rank 0 leaves the finished files, `figures.json` last."""
REFUSAL = "refusal.json"
"""Left there by a worker that found a user's error, which no retry can mend."""
CURVES = "curves.jsonl"
"""The figures of every log line."""


@dataclass
class Job:
    """One training: `task` is 'module:class', built as class(config, data, runtime) in every worker."""

    task: str
    config: TrainConfig
    data: Any
    work: str
    spool: str
    identity: dict[str, Any] = field(default_factory=dict)
    run: RunConfig = field(default_factory=RunConfig)
    stuck: str = ""


def train(task: str, config: TrainConfig, data: Any, ctx: Context, local: bool = False) -> Outcome:
    """Train to the end (or attach to a finished training in the work folder) and hand over its files.

    Raises:
        VimError: whatever the worker refused, or why the training failed.
    """
    from components.engines.ray.session import fit
    from components.tracking.shipping import Shipper

    job = Job(
        task,
        config,
        data,
        ctx.work,
        spool_path(ctx),
        {"component": ctx.name, "fingerprint": ctx.fingerprint},
        ctx.run,
        str(Path(spool_path(ctx)).with_name("stuck")),
    )
    ctx.progress.start(config.steps, "step")
    io.remove_tree(io.join(ctx.work, FINAL))
    io.remove_tree(job.stuck)
    following = _following(ctx)
    nodes = Path(spool_path(ctx)).with_name("driver") / SYSTEM
    collector = Collector(ctx.work, nodes)
    shipper = Shipper(followed_path(ctx), ctx.tracker, ctx.progress, announce=announcement, beside=[nodes])
    with shipper, following, repeated(collector.fetch):
        try:
            how = fit(work, {"job": job}, ctx, local)
        except errors.VimError as error:
            raise _with_verdict(error, job.stuck) from error
        finally:
            _raise_refusal(ctx.work)
    figures = json.loads(io.read_bytes(io.join(ctx.work, FINAL, "figures.json")))
    return _outcome(figures, how, ctx, nodes)


def spool_path(ctx: Context) -> str:
    """Where rank 0 appends its metrics: always a file on a disk of its machine."""
    return str(scratch(ctx.work) / SPOOL)


def followed_path(ctx: Context) -> str:
    """Where the driver reads them: the same file, or a copy of its own where the work lies in a bucket."""
    return spool_path(ctx) if io.is_local(ctx.work) else str(scratch(ctx.work) / "driver" / SPOOL)


def _following(ctx: Context) -> AbstractContextManager[None]:
    """While the training runs, keep the driver's copy up to date; one of another training is gone at once."""
    if io.is_local(ctx.work):
        return nullcontext()
    return repeated(Follower(ctx.work, Path(followed_path(ctx))).fetch)


def announcement(row: dict[str, Any]) -> str | None:
    """The line a person should see: the spool's 'note' rows, and what was not finite at which step."""
    if "nonfinite" in row:
        return f"step {row['step']}: not finite: {', '.join(row['nonfinite'])}; update skipped"
    note = row.get("note")
    return str(note) if note else None


def _outcome(figures: dict[str, Any], how: str, ctx: Context, nodes: Path) -> Outcome:
    names = [str(name) for name in figures["files"]]
    for name in names:
        io.write_bytes(ctx.path(name), io.read_bytes(io.join(ctx.work, FINAL, name)))
    samples = nodes.read_bytes()
    if samples:
        io.write_bytes(ctx.path(SYSTEM), samples)
        names.append(SYSTEM)
    return Outcome(
        metrics=figures["metrics"],
        properties={"trained_by": how, **figures["properties"]},
        numeric=figures["numeric"],
        extras=frozenset(n for n in names if n.startswith("pictures/") or n in (CURVES, NONFINITE, SYSTEM)),
    )


def _with_verdict(error: errors.VimError, stuck: str) -> errors.VimError:
    """The error, with the watchdog's word where a worker was stuck: Ray only knows that it is gone."""
    found = verdict(Path(stuck))
    return errors.VimError(f"{error}; {found}") if found else error


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
    local_rank = context.get_local_rank()
    wanted = job.run.system_metrics and job.run.tracking_uri != "off"
    try:
        with sampled(job.work, context.get_node_rank(), local_rank, wanted):
            run_task(job, context.get_world_rank(), context.get_world_size(), local_rank, _sources())
    except errors.VimError as error:
        record = {"type": type(error).__name__, "message": str(error)}
        _leave(job, {REFUSAL: json.dumps(record).encode()})
        if context.get_world_size() > 1:
            raise


def _sources() -> list[Callable[[], Notice]]:
    from components.engines.ray import preemption

    return [preemption.termination_notice, preemption.preemption_notice]


def run_task(job: Job, rank: int, world: int, local_rank: int, sources: Sequence[Callable[[], Notice]] = ()) -> None:
    """Build the runtime and the task, train, evaluate, leave the files; `sources` say when to save or stop."""
    if rank or io.is_local(job.work):
        _run_task(job, rank, world, local_rank, sources, lambda: None)
        return
    mirror = Mirror(job.work, Path(job.spool))
    mirror.fetch()
    with repeated(mirror.send):
        _run_task(job, rank, world, local_rank, sources, mirror.send)


def _run_task(
    job: Job,
    rank: int,
    world: int,
    local_rank: int,
    sources: Sequence[Callable[[], Notice]],
    before_checkpoint: Callable[[], None],
) -> None:
    from vim_core.distributed import runtimes as seam
    from vim_core.distributed.runtimes.measure import product_rate
    from vim_core.training.loop import train as loop
    from vim_core.training.meter import yardstick_of
    from vim_core.training.preemption import Notices
    from vim_core.training.spool import Spool

    runtime = seam.create(
        job.run.device,
        job.config.precision,
        job.run.threads,
        rank,
        world,
        local_rank,
        job.run.fsdp,
        job.run.compile_cache,
    )
    runtime.compiled = job.config.compile == "on"
    runtime.parallel = job.run.parallel
    rate = product_rate(runtime)
    spool = Spool(Path(job.spool)) if rank == 0 else None
    if spool is not None:
        spool.note(f"{runtime.numeric.name}: matrix products at {rate:,.0f} GFLOP/s")
        barked = verdict(Path(job.stuck))
        if barked:
            spool.note(f"started again: {barked}")
    module, name = job.task.split(":")
    task = getattr(importlib.import_module(module), name)(job.config, job.data, runtime)
    checkpoints = _checkpoints(job, runtime, spool, before_checkpoint)
    watchdog = Watchdog(Path(job.stuck) / f"worker-{rank:05d}-{os.getpid()}.txt", job.run.step_timeout_s, rank)
    start = loop(
        task,
        checkpoints,
        spool,
        job.run.data_workers,
        Notices(runtime, sources, job.run.notice_every),
        watchdog,
        yardstick=yardstick_of(runtime, rate * 1e9),
        on_evaluated=checkpoints.evaluated,
    )
    # A sharded network is put together by all workers; the first one has it then, and scores it alone, so that the
    # others must have nothing to wait for.
    exported = task.export() if runtime.sharded else {}
    figures = task.finish()
    if rank == 0:
        exported = exported or task.export()
        numeric = {**runtime.numeric.record(), "product_gflops": round(rate, 1)}
        _leave(job, _files(exported, figures, {"resumed_from": start}, numeric, job))


def _checkpoints(job: Job, runtime: Runtime, spool: Spool | None, before: Callable[[], None]) -> Checkpoints:
    from vim_core.checkpoint.checkpoints import Checkpoints

    config = job.config
    # Not of the world size: any number of workers may continue, sharded or not.
    folder = io.join(job.work, runtime.numeric.family)
    strict = config.checkpoint_errors == "fail"
    said = {} if spool is None else {"note": spool.note}
    return Checkpoints(folder, job.identity, runtime, config.keep, config.best, strict, before=before, **said)


def _files(
    exported: dict[str, bytes], metrics: dict[str, float], properties: dict[str, Any], numeric: dict[str, Any], job: Job
) -> dict[str, bytes]:
    from vim_core.training.spool import parse

    spool = Path(job.spool)
    rows = parse(spool.read_bytes())
    files = {**exported, CURVES: _lines(rows, "m")}
    faults = _lines(rows, "nonfinite")
    files |= {NONFINITE: faults} if faults else {}
    summaries = [row["note"] for row in rows if row.get("summary")]
    properties = properties | ({"summary": summaries[-1]} if summaries else {})
    pictures = sorted(spool.with_name("pictures").glob("*.png"))
    files |= {f"pictures/{path.name}": path.read_bytes() for path in pictures[-8:]}
    figures = {"files": list(files), "metrics": metrics, "properties": properties, "numeric": numeric}
    return {**files, "figures.json": json.dumps(figures).encode()}


def _lines(rows: list[dict[str, Any]], key: str) -> bytes:
    """The rows that have this key, as JSON lines."""
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows if key in row)


def _leave(job: Job, files: dict[str, bytes]) -> None:
    for name, data in files.items():
        io.write_bytes(io.join(job.work, FINAL, name), data)
