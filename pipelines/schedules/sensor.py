"""Schedules in Dagster: a sensor that reads their files, and the jobs that it starts."""

# No `from __future__ import annotations` here: Dagster reads annotations of contexts as types.

import dataclasses
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from datetime import UTC, datetime

import dagster as dg

from components.engines.attempts import is_transient
from components.tracking.progress import LineProgress
from components.training import prior_checkpoints
from pipelines.orchestration import assets, history, running
from pipelines.schedules import due, state
from pipelines.sweeps import runner, spec
from pipelines.sweeps.spec import Sweep
from vim_core.config import PipelineConfig
from vim_core.errors import VimError

SENSOR = "sweep_schedules"
LOCAL, SUBMITTED = "scheduled_sweep", "submitted_sweep"
"""Jobs: on this machine, taking turns on its accelerator, and on a cluster."""
OPS = {LOCAL: "evaluate", SUBMITTED: "submit"}
"""The one op of each job."""
INTERVAL_S = 15
AGAIN = " try "
"""Before the number of the start in the run key of a tick that was cut short."""
TAG, TICK = "vim.schedule", "vim.schedule_tick"
"""Tags of the sweep's MLflow run."""


def build(config: PipelineConfig) -> dg.Definitions:
    """The sensor and its jobs, over the schedules of this root."""
    jobs = [job(config, LOCAL, assets.accelerator_pool(config)), job(config, SUBMITTED, None)]
    return dg.Definitions(jobs=jobs, sensors=[sensor(config, jobs)], executor=dg.in_process_executor)


def sensor(config: PipelineConfig, jobs: Sequence[dg.JobDefinition]) -> dg.SensorDefinition:
    """Reads the schedules' files at every evaluation, so that a new one, a pause or a removal counts at once."""
    root = config.run.root

    @dg.sensor(
        name=SENSOR,
        jobs=jobs,
        minimum_interval_seconds=INTERVAL_S,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Runs sweeps by `vimctl sweep schedule`: at cron's ticks and at new checkpoints.",
    )
    def sweep_schedules(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        def list_checkpoints(schedule: state.Schedule) -> Sequence[due.Checkpoint] | None:
            try:
                return prior_checkpoints.available(state.load_config(schedule, root))
            except VimError as error:
                # the other schedules continue
                context.log.error(f"schedule {schedule.name}: {error}")
                return None

        if running.is_stopping(config):
            return dg.SensorResult(skip_reason="the user interface stops", cursor=context.cursor)
        history.fail_dead_runs(context.instance)
        schedules, errors = state.read_all(root)
        for text in errors:
            context.log.error(text)
        cursor = due.Cursor.parse(context.cursor)
        runs = due.due_runs(schedules, cursor, time.time(), list_checkpoints)
        clusters = {schedule.name: schedule.cluster for schedule in schedules}
        awake = {schedule.name for schedule in schedules if not schedule.paused}
        again = list(_again(history.take_over(context.instance), awake))
        return dg.SensorResult(
            run_requests=[
                *again,
                *(
                    dg.RunRequest(
                        run_key=run.key,
                        run_config={"ops": {OPS[name]: {"config": dataclasses.asdict(run)}}},
                        tags={due.TAG: run.schedule},
                        job_name=name,
                    )
                    for run in runs
                    for name in [SUBMITTED if clusters[run.schedule] else LOCAL]
                ),
            ],
            skip_reason=None if runs or again else f"{len(schedules)} schedules, nothing is due",
            cursor=cursor.dump(),
        )

    return sweep_schedules


def _again(runs: Sequence[dg.DagsterRun], names: Collection[str]) -> Iterator[dg.RunRequest]:
    """Requests for the runs that were cut short, while their schedule is there; one that never gets through ends."""
    for run in runs:
        key, _, number = run.tags.get("dagster/run_key", "").partition(AGAIN)
        tries = int(number or 1) + 1
        schedule = run.tags[due.TAG]
        if schedule in names and tries <= history.TRIES:
            yield dg.RunRequest(
                run_key=f"{key or run.run_id}{AGAIN}{tries}",
                run_config=dict(run.run_config),
                tags={due.TAG: schedule},
                job_name=run.job_name,
            )


def job(config: PipelineConfig, name: str, pool: str | None) -> dg.JobDefinition:
    """The job that evaluates the sweep of one due run."""
    root, restarts = config.run.root, config.run.restarts

    @dg.op(
        name=OPS[name],
        pool=pool,
        config_schema={"schedule": str, "tick": float, "checkpoint": int, "training": str},
        description="Evaluates a schedule's sweep and waits for its end.",
    )
    def evaluate(context: dg.OpExecutionContext) -> None:
        context.instance.add_run_tags(context.run_id, assets.run_tags(config))
        try:
            context.log.info(evaluate_sweep(root, due.DueRun(**context.op_config), context.log.info, context.run_id))
        except Exception as error:
            if not is_transient(error):
                raise
            raise dg.RetryRequested(restarts, assets.FIRST_PAUSE_S * 2**context.retry_number) from error

    @dg.job(name=name, description=f"A scheduled sweep; started by the sensor {SENSOR}.")
    def scheduled() -> None:
        evaluate()

    return scheduled


def evaluate_sweep(root: str, run: due.DueRun, say: Callable[[str], None], dagster_run: str) -> str:
    """Evaluate the sweep of a due run, in this process or as a job; returns a sentence on the result.

    Raises:
        ConfigError: the schedule, its preset or its cluster does not exist any more.
        VimError: points failed, or the job did.
    """
    schedule = state.read(root, run.schedule)
    sweep, config = state.resolve_sweep(schedule, run.checkpoint), state.load_config(schedule, root)
    tick = f"step {run.checkpoint}" if run.checkpoint else datetime.fromtimestamp(run.tick, UTC).isoformat()
    tags = {TAG: run.schedule, TICK: tick, "dagster/run_id": dagster_run}
    if schedule.cluster:
        return _submit(schedule, sweep, config, say, tags)
    done = runner.run(sweep, config, lambda name: LineProgress(name, say), tags)
    if done.failed:
        raise VimError(
            f"{schedule.name}: {done.failed} of {done.total} points of {sweep.name} failed; see {done.folder}"
        )
    return f"{done.total} points of {sweep.name} are in {done.folder}"


def _submit(
    schedule: state.Schedule, sweep: Sweep, config: PipelineConfig, say: Callable[[str], None], tags: dict[str, str]
) -> str:
    from components.contract import code, settings
    from pipelines.jobs import profile, submission
    from pipelines.jobs.api import SUCCEEDED, JobSpec

    cluster = profile.load(schedule.cluster)
    placed = submission.settings_on(cluster, config)
    spec_of_job = JobSpec(
        "sweep", placed.preset, settings.to_yaml(placed), sweep=spec.to_yaml(sweep), places=cluster.components,
        cluster=cluster.name, tags=tags, code=code.for_others(),
    )  # fmt: skip
    done = submission.submit(cluster, spec_of_job, say)
    if done.status != SUCCEEDED:
        raise VimError(f"{schedule.name}: job {done.job_id} on {cluster.name} {done.status}: {done.message}")
    return f"job {done.job_id} on {cluster.name} evaluated {sweep.name}"
