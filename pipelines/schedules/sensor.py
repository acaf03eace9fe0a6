"""Schedules in Dagster: a sensor that reads their files, and the jobs that it starts."""

# No `from __future__ import annotations` here: Dagster reads annotations of contexts as types.

import time
from collections.abc import Sequence

import dagster as dg

from components.engines.attempts import is_transient
from components.tracking.progress import LineProgress
from pipelines.orchestration import assets, history, metadata
from pipelines.schedules import due, runner, state
from pipelines.sweeps import checkpoints
from vim_core.config import PipelineConfig
from vim_core.errors import VimError

SENSOR = "sweep_schedules"
LOCAL, SUBMITTED = "scheduled_sweep", "submitted_sweep"
"""Jobs: on this machine, taking turns on its accelerator, and on a cluster."""
OPS = {LOCAL: "evaluate", SUBMITTED: "submit"}
"""The one op of each job."""
INTERVAL_S = 15


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
                return checkpoints.available(runner.load_config(schedule, root))
            except VimError as error:
                # the other schedules continue
                context.log.error(f"schedule {schedule.name}: {error}")
                return None

        history.fail_dead_runs(context.instance)
        schedules, errors = state.read_all(root)
        for text in errors:
            context.log.error(text)
        cursor = due.Cursor.parse(context.cursor)
        runs = due.due_runs(schedules, cursor, time.time(), list_checkpoints)
        clusters = {schedule.name: schedule.cluster for schedule in schedules}
        return dg.SensorResult(
            run_requests=[_request(run, SUBMITTED if clusters[run.schedule] else LOCAL) for run in runs],
            skip_reason=None if runs else f"{len(schedules)} schedules, nothing is due",
            cursor=cursor.dump(),
        )

    return sweep_schedules


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
        def say(text: str) -> None:
            context.log.info(text)

        context.instance.add_run_tags(context.run_id, metadata.run_tags(config))
        run = due.DueRun(**context.op_config)
        try:
            say(runner.run(root, run, lambda name: LineProgress(name, say), say, context.run_id))
        except Exception as error:
            if not is_transient(error):
                raise
            raise dg.RetryRequested(restarts, assets.FIRST_PAUSE_S * 2**context.retry_number) from error

    @dg.job(name=name, description=f"A scheduled sweep; started by the sensor {SENSOR}.")
    def scheduled() -> None:
        evaluate()

    return scheduled


def _request(run: due.DueRun, job_name: str) -> dg.RunRequest:
    settings = {"schedule": run.schedule, "tick": run.tick, "checkpoint": run.checkpoint, "training": run.training}
    return dg.RunRequest(
        run_key=run.key,
        run_config={"ops": {OPS[job_name]: {"config": settings}}},
        tags={due.TAG: run.schedule},
        job_name=job_name,
    )
