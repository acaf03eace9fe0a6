"""Runs the sweep of one tick or checkpoint, in this process or as a job of a cluster."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from datetime import UTC, datetime

from components.tracking.progress import ClosingProgress
from pipelines import presets
from pipelines.schedules import state
from pipelines.schedules.due import DueRun
from pipelines.schedules.state import Schedule
from pipelines.sweeps import runner, spec
from pipelines.sweeps.spec import CHECKPOINT, Sweep
from vim_core.config import PipelineConfig
from vim_core.errors import ConfigError, VimError

TAG, TICK = "vim.schedule", "vim.schedule_tick"
"""Tags of the sweep's MLflow run."""


def run(
    root: str, due: DueRun, progress: Callable[[str], ClosingProgress], say: Callable[[str], None], dagster_run: str
) -> str:
    """Evaluate the sweep of a due run; returns a sentence on the result.

    Raises:
        ConfigError: the schedule, its preset or its cluster does not exist any more.
        VimError: points failed, or the job did.
    """
    schedule = state.read(root, due.schedule)
    sweep, config = resolve_sweep(schedule, due.checkpoint), load_config(schedule, root)
    tick = f"step {due.checkpoint}" if due.checkpoint else datetime.fromtimestamp(due.tick, UTC).isoformat()
    tags = {TAG: due.schedule, TICK: tick, "dagster/run_id": dagster_run}
    if schedule.cluster:
        return _submit(schedule, sweep, config, say, tags)
    done = runner.run(sweep, config, progress, tags)
    if done.failed:
        raise VimError(
            f"{schedule.name}: {done.failed} of {done.total} points of {sweep.name} failed; see {done.folder}"
        )
    return f"{done.total} points of {sweep.name} are in {done.folder}"


def load_config(schedule: Schedule, root: str) -> PipelineConfig:
    """The settings that a schedule evaluates. Raises `ConfigError` if the changed preset no longer fits."""
    return presets.load(schedule.preset, [*schedule.overrides, f"run.root={root}"])


def resolve_sweep(schedule: Schedule, checkpoint: int = 0) -> Sweep:
    """The schedule's sweep, of one checkpoint where one is given: then its name ends in the step, as its results do.

    Raises:
        ConfigError: the sweep is invalid, or chooses checkpoints itself.
    """
    sweep = spec.parse(schedule.sweep, schedule.name)
    if not schedule.checkpoints_of:
        return sweep
    if CHECKPOINT in {*sweep.settings, *sweep.varying}:
        raise ConfigError(
            f"--on-checkpoint={schedule.checkpoints_of}: the sweep {sweep.name} chooses checkpoints itself"
        )
    if not checkpoint:
        return sweep
    settings = {**sweep.settings, CHECKPOINT: checkpoint}
    return dataclasses.replace(sweep, name=f"{sweep.name}-{checkpoint:08d}", settings=settings)


def _submit(
    schedule: Schedule, sweep: Sweep, config: PipelineConfig, say: Callable[[str], None], tags: dict[str, str]
) -> str:
    from components.contract import settings
    from pipelines.jobs import profile, submission
    from pipelines.jobs.api import SUCCEEDED, JobSpec

    cluster = profile.load(schedule.cluster)
    placed = submission.settings_on(cluster, config)
    job = JobSpec(
        "sweep", placed.preset, settings.to_yaml(placed), sweep=spec.to_yaml(sweep), places=cluster.components,
        cluster=cluster.name, tags=tags,
    )  # fmt: skip
    state = submission.submit(cluster, job, say)
    if state.status != SUCCEEDED:
        raise VimError(f"{schedule.name}: job {state.job_id} on {cluster.name} {state.status}: {state.message}")
    return f"job {state.job_id} on {cluster.name} evaluated {sweep.name}"
