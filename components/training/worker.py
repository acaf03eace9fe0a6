"""One worker of a training under Ray Train: builds runtime and task, trains, and leaves the finished files."""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from components.contract.code import Code, check
from components.rehearsal import RECORD
from components.tracking.node_metrics import sampled
from components.tracking.shipping import CURVES, NONFINITE, SpoolUploader, repeating
from vim_core import errors
from vim_core.config import RunConfig, TrainConfig
from vim_core.storage import io
from vim_core.training.interruptions import Preemption, PreemptionMonitor, Watchdog, read_report, termination_notice

if TYPE_CHECKING:
    from components.rehearsal.training import Watch
    from vim_core.checkpoint.checkpoints import Checkpoints
    from vim_core.distributed.runtimes.base import Runtime
    from vim_core.tasks.base import Task
    from vim_core.training.spool import Spool

C = TypeVar("C", bound="Checkpoints")

FINAL = "final"
"""Folder below the work folder where rank 0 leaves the finished files, `FIGURES` last."""
FIGURES = "figures.json"
REFUSAL = "refusal.json"
"""File that a worker leaves after a user's error, which no retry can fix."""
KEPT_PICTURES = 8
"""The number of newest pictures that are kept."""


@dataclass
class TrainingJob:
    """One training. `task` is 'module:class', built as class(config, data, runtime) in every worker.

    Attributes:
        work: the work folder, path or URI.
        spool: the file on rank 0's disk that takes its metrics.
        identity: component and fingerprint, recorded in every checkpoint.
        stuck: the folder where the watchdogs of stuck workers leave their stacks.
        code: what every worker must run.
        restarted: lost workers are started again, by Ray Train.
    """

    task: str
    config: TrainConfig
    data: Any
    work: str
    spool: str
    identity: dict[str, Any] = field(default_factory=dict)
    run: RunConfig = field(default_factory=RunConfig)
    stuck: str = ""
    code: Code | None = None
    restarted: bool = False


def work(arguments: dict[str, Any]) -> None:
    """Train this process's share under Ray Train. A user's error is written to a file for the driver and not retried.

    Raises:
        VimError: one of several workers refused; the others must not wait for it.
    """
    from ray import train as ray_train

    job: TrainingJob = arguments["job"]
    context = ray_train.get_context()
    raise_refusal(job.work)  # a retry after a refusal ends at once
    local_rank = context.get_local_rank()
    system_metrics = job.run.system_metrics and job.run.tracking_uri != "off"
    rank, world = context.get_world_rank(), context.get_world_size()
    try:
        if job.code is not None:
            check(job.code)
        with sampled(job.work, context.get_node_rank(), local_rank, system_metrics):
            run_task(job, rank, world, local_rank, [termination_notice, drain_notice])
    except errors.VimError as error:
        record = {"type": type(error).__name__, "message": str(error)}
        _write_final(job, {REFUSAL: json.dumps(record).encode()})
        if world > 1:
            raise


def drain_notice() -> Preemption:
    """SAVE while Ray drains a node of this training; a barrier of all workers."""
    from ray import train as ray_train

    return Preemption.SAVE if ray_train.get_preemption_info() is not None else Preemption.NONE


def raise_refusal(work: str) -> None:
    """Raise the user's error that a worker left in the work folder, if there is one."""
    uri = io.join(work, FINAL, REFUSAL)
    if io.exists(uri):
        record = json.loads(io.read_bytes(uri))
        raise getattr(errors, record["type"])(record["message"])


def run_task(
    job: TrainingJob, rank: int, world: int, local_rank: int, notices: Sequence[Callable[[], Preemption]] = ()
) -> None:
    """Train and leave the files; `notices` report when to save or stop.

    Where the work folder is in a bucket, rank 0 keeps a copy of its spool there.
    """
    if rank or io.is_local(job.work):
        _train(job, rank, world, local_rank, notices, lambda: None)
        return
    mirror = SpoolUploader(job.work, Path(job.spool))
    mirror.fetch()
    with repeating(mirror.send):
        _train(job, rank, world, local_rank, notices, mirror.send)


def _train(
    job: TrainingJob,
    rank: int,
    world: int,
    local_rank: int,
    notices: Sequence[Callable[[], Preemption]],
    before_checkpoint: Callable[[], None],
) -> None:
    """Build runtime and task, train, evaluate; rank 0 writes the final files."""
    from components.rehearsal.training import records, rehearse
    from vim_core.checkpoint.checkpoints import Checkpoints
    from vim_core.distributed import runtimes
    from vim_core.distributed.runtimes.base import product_rate
    from vim_core.rehearsal.schedule import Schedule
    from vim_core.training.spool import Spool

    config, run = job.config, job.run
    runtime = runtimes.create(
        run.device,
        config.precision,
        run.threads,
        rank,
        world,
        local_rank,
        run.fsdp,
        run.compile_cache,
        run.deterministic,
    )
    runtime.compiled = config.compile == "on"
    runtime.parallel, runtime.shards = run.parallel, run.fsdp
    rate = product_rate(runtime)
    spool = Spool(Path(job.spool)) if rank == 0 else None
    if spool is not None:
        spool.write_note(f"{runtime.numeric.name}: matrix products at {rate:,.0f} GFLOP/s", debug=True)
        stuck = read_report(Path(job.stuck))
        if stuck:
            spool.write_note(f"started again: {stuck}")
    attempt = partial(train_once, job, runtime, rate, spool, notices, before_checkpoint)
    resumed_class = ""
    if run.rehearse:
        scratch = Path(job.spool).parent
        task, start = rehearse(attempt, runtime, Schedule(run.rehearse), job.work, scratch, job.restarted)
    else:
        task, checkpoints, start = attempt(Checkpoints)
        resumed_class = checkpoints.resumed_class
    # All workers take part in collecting a sharded network. Rank 0 has it then and scores it alone, so the others must
    # have nothing left to wait for.
    exported = task.export() if runtime.sharded else {}
    metrics = task.finish()
    if rank == 0:
        exported = exported or task.export()
        numeric = {**asdict(runtime.numeric), "product_gflops": round(rate, 1)}
        if run.rehearse:
            exported = {**exported, RECORD: json.dumps(records(job.work, world)).encode()}
        resumed = {"resumed_from": start} | ({"resumed_class": resumed_class} if resumed_class else {})
        _write_final(job, _final_files(exported, metrics, resumed, numeric, Path(job.spool)))


def train_once(
    job: TrainingJob,
    runtime: Runtime,
    rate: float,
    spool: Spool | None,
    notices: Sequence[Callable[[], Preemption]],
    before_checkpoint: Callable[[], None],
    kind: type[C],
    watch: Watch = lambda task: lambda done, figures: None,
) -> tuple[Task, C, int]:
    """Build the task and train it to its last step from the newest checkpoint.

    Args:
        job, runtime, spool, notices, before_checkpoint: see `run_task`; rank 0 alone has a spool.
        rate: of matrix products as measured, in GFLOP/s.
        kind: the class of checkpoints.
        watch: gets the task before its first step; returns what is called after each.

    Returns:
        The task, its checkpoints, and the step that training continued from.
    """
    from vim_core.training.loop import train
    from vim_core.training.throughput import peak_rates

    config, run, rank = job.config, job.run, runtime.rank
    module, name = job.task.split(":")
    task = getattr(importlib.import_module(module), name)(config, job.data, runtime)
    checkpoints = kind(
        # Not of the world size: any number of workers may continue, sharded or not.
        io.join(job.work, runtime.numeric.family),
        job.identity,
        runtime,
        config.keep,
        config.best,
        config.checkpoint_errors == "fail",
        run.continue_from,
        before_commit=before_checkpoint,
        **({} if spool is None else {"note": spool.write_note}),
    )
    start = train(
        task,
        checkpoints,
        spool,
        run.data_workers,
        PreemptionMonitor(runtime, notices, run.notice_every),
        Watchdog(Path(job.stuck) / f"worker-{rank:05d}-{os.getpid()}.txt", run.step_timeout_s, rank),
        peaks=peak_rates(runtime, rate * 1e9),
        on_evaluated=checkpoints.record_evaluation,
        on_step=watch(task),
    )
    return task, checkpoints, start


def _final_files(
    exported: dict[str, bytes],
    metrics: dict[str, float],
    properties: dict[str, Any],
    numeric: dict[str, Any],
    spool: Path,
) -> dict[str, bytes]:
    """The exported files with curves, faults and pictures from the spool, and `FIGURES`, which lists them."""
    from vim_core.training.spool import parse_rows

    rows = parse_rows(spool.read_bytes())

    def lines(key: str) -> bytes:
        return b"".join(json.dumps(row).encode() + b"\n" for row in rows if key in row)

    files = {**exported, CURVES: lines("m")}
    faults = lines("nonfinite")
    files |= {NONFINITE: faults} if faults else {}
    summaries = [row["note"] for row in rows if row.get("summary")]
    properties = properties | ({"summary": summaries[-1]} if summaries else {})
    pictures = sorted(spool.with_name("pictures").glob("*.png"))
    files |= {f"pictures/{path.name}": path.read_bytes() for path in pictures[-KEPT_PICTURES:]}
    figures = {"files": list(files), "metrics": metrics, "properties": properties, "numeric": numeric}
    return {**files, FIGURES: json.dumps(figures).encode()}


def _write_final(job: TrainingJob, files: dict[str, bytes]) -> None:
    for name, data in files.items():
        io.write_bytes(io.join(job.work, FINAL, name), data)
