"""The sensor and its jobs: what is due becomes runs, damaged or deaf schedules stop no other."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from components.training import prior_checkpoints
from pipelines.orchestration import assets, history, running
from pipelines.schedules import due, sensor, state
from pipelines.schedules.state import Schedule
from pipelines.sweeps import runner
from vim_core.errors import DataError, VimError

SWEEP = "name: two\npoints:\n- sample.guidance: 2.0\n"
MINUTELY = Schedule("minutely", SWEEP, "smoke", cron="* * * * *", missed="latest")


@pytest.fixture
def instance(flow: Any) -> Iterator[dg.DagsterInstance]:
    with history.instance(flow.config) as instance:
        yield instance


def look(flow: Any, instance: dg.DagsterInstance, cursor: str | None = None) -> Any:
    """What the sensor answers."""
    made = sensor.build(flow.config)
    definition = made.resolve_sensor_def(sensor.SENSOR)
    context = dg.build_sensor_context(instance=instance, cursor=cursor, repository_def=made.get_repository_def())
    return definition.evaluate_tick(context)


def test_everything_loads_together(flow: Any) -> None:
    dg.Definitions.validate_loadable(dg.Definitions.merge(assets.build(flow.config), sensor.build(flow.config)))


def test_a_due_tick_becomes_a_run_of_its_own_name(flow: Any, instance: dg.DagsterInstance) -> None:
    root = flow.config.run.root
    state.add(root, dataclasses.replace(MINUTELY, since=time.time() - 200))
    state.add(root, dataclasses.replace(MINUTELY, name="far", cluster="gke-v4", since=time.time() - 200))
    state.add(root, dataclasses.replace(MINUTELY, name="asleep", paused=True))
    answer = look(flow, instance)
    requests = {request.tags[due.TAG]: request for request in answer.run_requests}
    assert set(requests) == {"minutely", "far"}
    assert requests["minutely"].job_name == sensor.LOCAL
    assert requests["far"].job_name == sensor.SUBMITTED
    given = requests["minutely"].run_config["ops"]["evaluate"]["config"]
    assert requests["minutely"].run_key == due.DueRun(**given).key
    assert look(flow, instance, answer.cursor).run_requests == []


def test_a_sweep_that_was_cut_short_is_started_again_and_none_while_the_interfaces_stop(
    flow: Any, instance: dg.DagsterInstance
) -> None:
    state.add(flow.config.run.root, dataclasses.replace(MINUTELY, since=time.time() + 900))
    given = {"ops": {"evaluate": {"config": dataclasses.asdict(due.DueRun("minutely", 0.0))}}}
    for key, again in (("minutely/t", "minutely/t try 2"), ("minutely/t try 2", "minutely/t try 3"), ("m try 3", "")):
        tags = {due.TAG: "minutely", "dagster/run_key": key, history.CUT_SHORT: "true"}
        failed = dg.DagsterRunStatus.FAILURE
        instance.add_run(dg.DagsterRun(job_name=sensor.LOCAL, run_config=given, tags=tags, status=failed))
        requests = look(flow, instance).run_requests
        assert [request.run_key for request in requests] == ([again] if again else [])
        assert all((request.run_config, request.job_name) == (given, sensor.LOCAL) for request in requests)
        assert look(flow, instance).run_requests == []
    state.add(flow.config.run.root, dataclasses.replace(MINUTELY, name="other", since=time.time() - 200))
    running.announce(flow.config, {}, {})
    running.drain(flow.config)
    assert look(flow, instance).run_requests == []
    running.announce(flow.config, {}, {})
    assert len(look(flow, instance).run_requests) == 1


def test_a_damaged_file_and_an_unknown_preset_stop_no_other(
    flow: Any, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = flow.config.run.root
    state.add(root, dataclasses.replace(MINUTELY, since=time.time() - 200))
    state.add(root, Schedule("deaf", SWEEP, "no_such_preset", checkpoints_of="prior", since=time.time()))
    Path(state.folder(root), "broken.json").write_text("{")
    assert [request.tags[due.TAG] for request in look(flow, instance).run_requests] == ["minutely"]


def test_new_checkpoints_become_runs(flow: Any, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prior_checkpoints, "available", lambda config: [("prior", "aa", 20), ("prior", "aa", 40)])
    watching = Schedule("w", SWEEP, "smoke", checkpoints_of="prior", since=time.time(), known=["prior/aa/20"])
    state.add(flow.config.run.root, watching)
    (request,) = look(flow, instance).run_requests
    assert request.run_key == "w/aa/40"
    assert request.run_config["ops"]["evaluate"]["config"]["checkpoint"] == 40


def fired(flow: Any, fire: due.DueRun) -> Any:
    """The job of one tick, run in this process."""
    job = sensor.build(flow.config).resolve_job_def(sensor.LOCAL)
    settings = {"ops": {"evaluate": {"config": dataclasses.asdict(fire)}}}
    with history.instance(flow.config) as instance:
        return job.execute_in_process(run_config=settings, instance=instance)


def test_a_run_evaluates_the_sweep_on_the_schedules_settings(flow: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def run(sweep: Any, config: Any, progress: Any, tags: Any) -> Any:
        asked.append((sweep, config, tags))
        return runner.SweepResult({"counts": {"points": 1, "failed": len(asked) - 1}}, "folder")

    monkeypatch.setattr(runner, "run", run)
    state.add(flow.config.run.root, dataclasses.replace(MINUTELY, overrides=["prior.steps=7"]))
    result = fired(flow, due.DueRun("minutely", 1_795_348_800.0))
    assert result.success
    sweep, config, tags = asked[0]
    assert (sweep.name, config.preset, config.prior.steps) == ("two", "smoke", 7)
    assert config.run.root == flow.config.run.root
    assert tags[sensor.TAG] == "minutely"
    assert tags[sensor.TICK] == "2026-11-22T12:00:00+00:00"
    assert tags["dagster/run_id"] == result.run_id
    with pytest.raises(VimError, match="1 of 1 points of two failed"):
        fired(flow, due.DueRun("minutely", 1_795_348_860.0))


def test_a_checkpoints_sweep_has_a_name_of_its_own(flow: Any) -> None:
    schedule = Schedule("w", SWEEP, "smoke", checkpoints_of="prior")
    sweep = state.resolve_sweep(schedule, 40)
    assert (sweep.name, sweep.settings) == ("two-00000040", {"checkpoint": 40})
    chosen = dataclasses.replace(schedule, sweep=SWEEP + "settings: {checkpoint: latest}\n")
    with pytest.raises(VimError, match="chooses checkpoints itself"):
        state.resolve_sweep(chosen, 40)


def test_a_lost_connection_is_tried_again(flow: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assets, "FIRST_PAUSE_S", 0)
    failures: list[Exception] = [ConnectionResetError(), DataError("quantize was not made")]

    def run(*words: Any) -> Any:
        raise failures.pop(0)

    monkeypatch.setattr(runner, "run", run)
    state.add(flow.config.run.root, MINUTELY)
    with pytest.raises(DataError, match="not made"):
        fired(flow, due.DueRun("minutely", 1_795_348_800.0))
    assert failures == []
