"""Running the sweep of one tick or checkpoint, here or on a cluster."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from datetime import UTC, datetime

from components.tracking.progress import ClosingProgress
from pipelines import presets
from pipelines.schedules import files
from pipelines.schedules.due import Fire
from pipelines.schedules.files import Schedule
from pipelines.sweeps import runner, spec
from pipelines.sweeps.spec import CHECKPOINT, Sweep
from vim_core.config import PipelineConfig
from vim_core.errors import ConfigError, VimError

TAG, TICK = "vim.schedule", "vim.schedule_tick"


def run(
    root: str, fire: Fire, progress: Callable[[str], ClosingProgress], say: Callable[[str], None], dagster_run: str
) -> str:
    """Evaluate the sweep of a tick; returns what was done in a sentence.

    Raises:
        ConfigError: the schedule is gone, or its preset or cluster is.
        VimError: points failed, or the job did.
    """
    schedule = files.read(root, fire.schedule)
    sweep, config = sweep_of(schedule, fire.checkpoint), config_of(schedule, root)
    if schedule.cluster:
        return _submit(schedule, sweep, config, say, tags_of(fire, dagster_run))
    done = runner.run(sweep, config, progress, tags_of(fire, dagster_run))
    if done.failed:
        raise VimError(
            f"{schedule.name}: {done.failed} of {done.total} points of {sweep.name} failed; see {done.folder}"
        )
    return f"{done.total} points of {sweep.name} are in {done.folder}"


def config_of(schedule: Schedule, root: str) -> PipelineConfig:
    """The settings that a schedule evaluates. Raises `ConfigError` where its preset has changed too much."""
    return presets.load(schedule.preset, [*schedule.overrides, f"run.root={root}"])


def sweep_of(schedule: Schedule, checkpoint: int = 0) -> Sweep:
    """The schedule's sweep, of one checkpoint where one is given: under a name of its own, so that each has results.

    Raises:
        ConfigError: the sweep is not in order, or chooses checkpoints itself.
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


def tags_of(fire: Fire, dagster_run: str) -> dict[str, str]:
    """Tags of the sweep's MLflow run."""
    told = f"step {fire.checkpoint}" if fire.checkpoint else datetime.fromtimestamp(fire.tick, UTC).isoformat()
    return {TAG: fire.schedule, TICK: told, "dagster/run_id": dagster_run}


def _submit(
    schedule: Schedule, sweep: Sweep, config: PipelineConfig, say: Callable[[str], None], tags: dict[str, str]
) -> str:
    from components.contract import settings
    from pipelines.jobs import profile, submission
    from pipelines.jobs.api import SUCCEEDED, JobSpec

    cluster = profile.load(schedule.cluster)
    placed = submission.placed(cluster, config)
    job = JobSpec(
        "sweep", placed.preset, settings.to_yaml(placed), sweep=spec.to_yaml(sweep), places=cluster.components,
        cluster=cluster.name, tags=tags,
    )  # fmt: skip
    state = submission.submit(cluster, job, say)
    if state.status != SUCCEEDED:
        raise VimError(f"{schedule.name}: job {state.identity} on {cluster.name} {state.status}: {state.message}")
    return f"job {state.identity} on {cluster.name} evaluated {sweep.name}"
