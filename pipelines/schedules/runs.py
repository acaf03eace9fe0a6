"""Schedules as Dagster sees them: a sensor that looks at the files, and the job that it starts."""

# No `from __future__ import annotations` here: Dagster reads annotations of contexts as types.

import time
from collections.abc import Callable, Sequence

import dagster as dg

from components.engines.transient_errors import is_transient
from components.tracking.progress import LineProgress
from pipelines.orchestration import assets, history, metadata
from pipelines.schedules import due, files, firing
from pipelines.schedules.names import HERE, OPS, SENSOR, TAG, THERE
from vim_core.config import PipelineConfig
from vim_core.errors import VimError

EVERY_S = 15


def build(config: PipelineConfig) -> dg.Definitions:
    """The sensor and its jobs, over the schedules of this root."""
    jobs = [job(config, HERE, assets.accelerator_pool(config)), job(config, THERE, None)]
    return dg.Definitions(jobs=jobs, sensors=[sensor(config, jobs)], executor=dg.in_process_executor)


def sensor(config: PipelineConfig, jobs: Sequence[dg.JobDefinition]) -> dg.SensorDefinition:
    """Looks at the schedules' files, so that a new one, a pause or a removal counts at once."""
    root = config.run.root

    @dg.sensor(
        name=SENSOR,
        jobs=jobs,
        minimum_interval_seconds=EVERY_S,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Runs sweeps by `vimctl sweep schedule`: at cron's ticks and at new checkpoints.",
    )
    def sweep_schedules(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        history.fail_dead_runs(context.instance)
        schedules, wrong = files.everything(root)
        for text in wrong:
            context.log.error(text)
        memory = due.Memory.parse(context.cursor)
        fires = due.due(schedules, memory, time.time(), lambda each: _checkpoints(each, root, context.log.error))
        clusters = {schedule.name: schedule.cluster for schedule in schedules}
        return dg.SensorResult(
            run_requests=[_request(fire, clusters[fire.schedule]) for fire in fires],
            skip_reason=None if fires else f"{len(schedules)} schedules, nothing is due",
            cursor=memory.dump(),
        )

    return sweep_schedules


def job(config: PipelineConfig, name: str, pool: str | None) -> dg.JobDefinition:
    """The job that evaluates the sweep of one tick."""
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
        fire = due.Fire(**context.op_config)
        try:
            say(firing.run(root, fire, lambda name: LineProgress(name, say), say, context.run_id))
        except Exception as error:
            if not is_transient(error):
                raise
            raise dg.RetryRequested(restarts, assets.FIRST_PAUSE_S * 2**context.retry_number) from error

    @dg.job(name=name, description=f"A scheduled sweep; started by the sensor {SENSOR}.")
    def scheduled() -> None:
        evaluate()

    return scheduled


def _request(fire: due.Fire, cluster: str) -> dg.RunRequest:
    settings = {
        "schedule": fire.schedule, "tick": fire.tick, "checkpoint": fire.checkpoint, "training": fire.training,
    }  # fmt: skip
    chosen = THERE if cluster else HERE
    return dg.RunRequest(
        run_key=fire.key,
        run_config={"ops": {OPS[chosen]: {"config": settings}}},
        tags={TAG: fire.schedule},
        job_name=chosen,
    )


def _checkpoints(
    schedule: files.Schedule, root: str, complain: Callable[[str], None]
) -> Sequence[tuple[str, str, int]] | None:
    from pipelines.sweeps import checkpoints

    try:
        return checkpoints.available(firing.config_of(schedule, root))
    except VimError as error:
        # The other schedules go on.
        complain(f"schedule {schedule.name}: {error}")
        return None
