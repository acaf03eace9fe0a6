"""Runs in process: order, reuse, single components, errors, interruption, history."""

from __future__ import annotations

import os
import signal
import socket
import time
from typing import Any

import psutil
import pytest
from sqlalchemy.exc import OperationalError

from components.artifacts import gates
from components.tracking.progress import LineProgress
from pipelines.orchestration import assets, history, launch
from vim_core.errors import ConfigError, DataError, GateError, StorageError

ON_DISK = history.instance


def run(flow: Any, names: list[str] | None = None, **options: Any) -> Any:
    """A run of `names`, or of the whole preset."""
    planned = launch.plan(flow.config, None) if names is None else names
    return launch.run(flow.config, planned, [], lambda name: LineProgress(name, print), **options)


def test_components_run_after_their_inputs_and_again_only_where_settings_or_from_ask(flow: Any) -> None:
    everything = ["ingest", "quantize", "tokenize", "prior"]
    first = run(flow).results
    assert flow.ran == everything
    assert not any(result.reused for result in first.values())
    second = run(flow).results
    assert flow.ran == everything
    assert all(result.reused for result in second.values())
    assert [first[name].artifact.digest == second[name].artifact.digest for name in everything] == [True] * 4
    flow.ran.clear()
    flow.config.tokenize.views = 3
    run(flow)
    assert flow.ran == ["tokenize", "prior"]
    flow.ran.clear()
    results = run(flow, start="tokenize").results
    assert flow.ran == ["tokenize", "prior"]
    assert [name for name, result in results.items() if result.reused] == ["ingest", "quantize"]


@pytest.mark.parametrize(
    ("options", "planned"),
    [
        ({}, ["ingest", "quantize", "tokenize", "prior"]),
        ({"target": "tokenize"}, ["ingest", "quantize", "tokenize"]),
        ({"target": "tokenize", "only": True}, ["tokenize"]),
        ({"target": "tokenize", "start": "quantize"}, ["ingest", "quantize", "tokenize"]),
        ({"start": "prior"}, ["ingest", "quantize", "tokenize", "prior"]),
    ],
)
def test_a_plan_has_the_inputs_first(flow: Any, options: dict[str, Any], planned: list[str]) -> None:
    assert launch.plan(flow.config, **{"target": None, **options}) == planned


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": "proir"}, r"'proir' is no component; did you mean prior\?"),
        ({"target": "score"}, "score is not in the preset fake"),
        ({"only": True}, "name the component"),
        ({"start": "proir"}, r"'proir' is no component; did you mean prior\?"),
        ({"start": "score"}, "score is not in the preset fake"),
        ({"target": "ingest", "start": "tokenize"}, "ingest is not made from tokenize; those are prior"),
        ({"target": "prior", "only": True, "start": "prior"}, "--only and --from=prior"),
    ],
)
def test_a_plan_refuses_what_makes_no_sense(flow: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        launch.plan(flow.config, **{"target": None, **options})


def test_a_component_alone_names_its_missing_input(flow: Any) -> None:
    with pytest.raises(DataError, match=r"tokenize needs the output of .*vimctl run \w+ --preset fake"):
        run(flow, ["tokenize"])
    assert flow.ran == []


def test_a_components_own_error_comes_out_unchanged_and_nothing_after_it_runs(flow: Any) -> None:
    refused = DataError("quantize: too few images")

    def fail(ctx: Any) -> None:
        raise refused

    flow.acts["quantize"] = fail
    with pytest.raises(DataError) as caught:
        run(flow)
    assert caught.value is refused
    assert flow.ran == ["ingest", "quantize"]
    flow.acts.clear()
    assert run(flow).results["ingest"].reused


def test_a_disk_that_is_full_for_the_history_is_one_line(flow: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: Any, **named: Any) -> None:
        raise OperationalError("COMMIT", {}, Exception("database or disk is full"))

    monkeypatch.setattr("dagster.JobDefinition.execute_in_process", full)
    with pytest.raises(StorageError, match=r"history cannot be written \(database or disk is full\); free some space"):
        run(flow)


def test_ctrl_c_comes_out_as_an_interrupt_and_finished_work_is_kept(flow: Any) -> None:
    def interrupt(ctx: Any) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(10)

    flow.acts["quantize"] = interrupt
    with pytest.raises(KeyboardInterrupt):
        run(flow)
    flow.acts.clear()
    again = run(flow)
    assert again.results["ingest"].reused
    assert flow.ran == ["ingest", "quantize", "quantize", "tokenize", "prior"]


def test_dagster_keeps_the_history_below_the_root(flow: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import dagster

    from components.tracking.tracker import config_fingerprint

    monkeypatch.setattr(history, "instance", ON_DISK)
    tags = {"vim.job": "vim-smoke-0123456789ab-a1"}
    run(flow, ["ingest", "quantize"])
    flow.config.run.changed = ["prior.dropout=0.2"]
    hidden = {"fingerprint": config_fingerprint(flow.config), "pid": str(os.getpid())}
    expected = {"vim/preset": "fake", "vim/changed": "prior.dropout=0.2"}
    expected |= {f".dagster/vim/{name}": value for name, value in hidden.items()}
    run(flow, ["quantize"], tags=tags)
    flow.acts["prior"] = lambda ctx: (_ for _ in ()).throw(DataError("no"))
    with pytest.raises(DataError, match="no"):
        run(flow)
    with history.instance(flow.config) as instance:
        runs = instance.get_runs()  # newest first
        assert [record.status.value for record in runs] == ["FAILURE", "SUCCESS", "SUCCESS"]
        assert {**tags, **expected}.items() <= runs[1].tags.items()
        shown = {name for name in runs[1].tags if not name.startswith(".dagster/")}
        assert shown == {"vim/preset", "vim/changed", "vim.job"}
        # The timeline shows runs of a place alone.
        origin = runs[1].remote_job_origin
        assert origin is not None
        assert origin.repository_origin.get_label() == runs[1].tags[history.REPOSITORY_TAG]
        assert origin.location_name == "pipelines.definitions"
        assert history.failure_reason(instance, runs[0].run_id) == "no"
        event = instance.get_latest_materialization_event(dagster.AssetKey("quantize"))
        assert event is not None
        assert event.asset_materialization is not None
        metadata = event.asset_materialization.metadata
        assert metadata["reused"].value is True
        assert metadata["metric/rows"].value == 3.0
    assert "enabled: false" in (history.dagster_home(flow.config) / "dagster.yaml").read_text()


def test_a_failed_gate_stops_this_run_and_later_ones_by_the_bound_of_the_time(flow: Any) -> None:
    flow.usage = 0.05
    message = r"quantize/\w{8} is kept, but .*: gate codebook_usage: .*0\.05 .*least 0\.1 .*gates\.codebook"
    for names in (None, ["tokenize"]):
        with pytest.raises(GateError, match=message):
            run(flow, names)
    assert flow.ran == ["ingest", "quantize"]
    flow.config.gates.codebook_usage = 0.05
    run(flow)
    assert flow.ran == ["ingest", "quantize", "tokenize", "prior"]
    flow.config.gates.codebook_usage = 0.95
    with pytest.raises(GateError, match=r"at least 0\.95"):
        run(flow, ["prior"])


def test_images_must_suffice_for_the_components_of_this_run(flow: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asks = {"prior": "prior.batch=9: asks for more", "tokenize": "tokenize.views=9: too many"}
    problems = lambda config, images: [text for name, text in asks.items() if name in config.components]  # noqa: E731
    monkeypatch.setattr(gates, "shortfalls", problems)
    run(flow, ["ingest", "quantize"])
    with pytest.raises(
        GateError, match=r"gate images_suffice: .* 2 settings do not fit: \(1\) prior.batch=9.*\(2\) tokenize.views"
    ):
        run(flow)
    assert flow.ran == ["ingest", "quantize"]


def test_a_lost_connection_is_tried_again_and_a_mistake_is_not(flow: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assets, "FIRST_PAUSE_S", 0)
    failures = iter([ConnectionResetError("the peer went away")] * 2)

    def lose(ctx: Any) -> None:
        for failure in failures:
            raise failure

    flow.acts["quantize"] = lose
    done = run(flow)
    assert flow.ran == ["ingest", "quantize", "quantize", "quantize", "tokenize", "prior"]
    assert done.error is None
    flow.ran.clear()
    flow.config.run.restarts = 1
    flow.config.quantize.seed = 5
    failures = iter([ConnectionResetError("the peer went away")] * 9)
    with pytest.raises(ConnectionResetError):
        run(flow)
    assert flow.ran == ["quantize", "quantize"]


def test_a_run_whose_process_was_killed_is_ended() -> None:
    """One of this machine and process alone; others may still be at work."""
    import dagster

    gone = {"vim/host": socket.gethostname(), "vim/pid": "4194999", "vim/pid_started": "1.0"}
    here = {"vim/host": socket.gethostname(), "vim/pid": str(os.getpid())}
    here["vim/pid_started"] = str(psutil.Process().create_time())
    started = dagster.DagsterRunStatus.STARTED
    with dagster.DagsterInstance.ephemeral() as instance:
        runs = {}
        for name, tags in (
            ("gone", gone),
            ("here", here),
            ("elsewhere", {**gone, "vim/host": "another"}),
            ("unknown", {}),
        ):
            made = dagster.DagsterRun(job_name="fake", tags=tags, status=started)
            runs[instance.add_run(made).run_id] = name
        history.fail_dead_runs(instance)
        assert history.take_over(instance) == []
        left = {runs[run.run_id] for run in instance.get_runs() if run.status == started}
    assert left == {"here", "elsewhere", "unknown"}


def test_an_untouched_dagster_yaml_of_an_earlier_version_is_brought_up_to_date(flow: Any) -> None:
    place = history.dagster_home(flow.config) / "dagster.yaml"
    assert "max_concurrent_runs" in place.read_text()
    place.write_text(history.PREVIOUS_SETTINGS)
    history.dagster_home(flow.config)
    assert place.read_text() == history.SETTINGS
    place.write_text("telemetry:\n  enabled: false\n# mine\n")
    history.dagster_home(flow.config)
    assert place.read_text().endswith("# mine\n")
