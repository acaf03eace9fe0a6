"""The driver of a training: starts the workers through Ray Train, delivers their metrics, takes over their files."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from components.contract.api import Context, Outcome
from components.contract.code import current
from components.rehearsal import RECORD
from components.tracking.node_metrics import SYSTEM, Collector
from components.tracking.shipping import CURVES, NONFINITE, SPOOL, Shipper, SpoolDownloader, repeating
from components.training.worker import FIGURES, FINAL, TrainingJob, raise_refusal, work
from vim_core.config import TrainConfig
from vim_core.errors import VimError
from vim_core.storage import io
from vim_core.training.interruptions import read_report


def train(task: str, config: TrainConfig, data: Any, ctx: Context, local: bool = False) -> Outcome:
    """Train to the end and take over the files that rank 0 left in the work folder.

    Args:
        task: 'module:class' of the task.
        config: the component's settings.
        data: the task's data, sent to every worker.
        ctx: the component's context.
        local: train in this process instead of a Ray cluster.

    Raises:
        VimError: a worker refused the settings or the data, or the training failed.
    """
    from components.engines.ray.session import fit

    # Rank 0 appends its metrics to it, always on a disk of its machine.
    spool = io.scratch(ctx.work) / SPOOL
    stuck = str(spool.with_name("stuck"))
    identity = {"component": ctx.name, "fingerprint": ctx.fingerprint}
    # A rehearsal with one worker needs no cluster; with several, Ray starts one again that kills itself.
    local = local or (ctx.run.rehearse > 0 and ctx.run.workers == 1 and not ctx.run.ray_address)
    restarted = not local and ctx.run.restarts > 0 and ctx.run.device != "xla"
    job = TrainingJob(task, config, data, ctx.work, str(spool), identity, ctx.run, stuck, current(), restarted)
    ctx.progress.start(config.steps, "step")
    count = ctx.run.workers
    ctx.progress.status("starting" if local else f"starting {count} worker{'' if count == 1 else 's'}")
    io.remove_tree(io.join(ctx.work, FINAL))
    io.remove_tree(stuck)
    # Where the work lies in a bucket, the driver follows a copy of rank 0's spool.
    local_work = io.is_local(ctx.work)
    followed = spool if local_work else io.scratch(ctx.work) / "driver" / SPOOL
    following = nullcontext() if local_work else repeating(SpoolDownloader(ctx.work, followed).fetch)
    nodes = spool.with_name("driver") / SYSTEM
    collector = Collector(ctx.work, nodes)
    shipper = Shipper(followed, ctx.tracker, ctx.progress, [nodes])
    with shipper, following, repeating(collector.fetch):
        try:
            trained_by = fit(work, {"job": job}, ctx, local)
        except VimError as error:
            # Ray only reports that a stuck worker died; its watchdog wrote the step and the stacks.
            watchdog = read_report(Path(stuck))
            if watchdog:
                raise VimError(f"{error}; {watchdog}") from error
            raise
        finally:
            raise_refusal(ctx.work)
    return _make_outcome(trained_by, ctx, nodes)


def _make_outcome(trained_by: str, ctx: Context, nodes: Path) -> Outcome:
    """Copy the final files and the nodes' samples to the outputs."""
    figures = json.loads(io.read_bytes(io.join(ctx.work, FINAL, FIGURES)))
    names = [str(name) for name in figures["files"]]
    for name in names:
        io.write_bytes(ctx.path(name), io.read_bytes(io.join(ctx.work, FINAL, name)))
    samples = nodes.read_bytes()
    if samples:
        io.write_bytes(ctx.path(SYSTEM), samples)
        names.append(SYSTEM)
    return Outcome(
        metrics=figures["metrics"],
        properties={"trained_by": trained_by, **figures["properties"]},
        numeric=figures["numeric"],
        extras=frozenset(n for n in names if n.startswith("pictures/") or n in (CURVES, NONFINITE, SYSTEM, RECORD)),
    )
