"""Runs in process: order, reuse, single components, errors, interruption, history."""

from __future__ import annotations

import os
import signal
import socket
import time
from typing import Any

import psutil
import pytest

from components.tracking.progress import QuietProgress
from pipelines.orchestration import assets, history, launch
from vim_core.errors import ConfigError, DataError, GateError

ON_DISK = history.instance


def run(flow: Any, names: list[str] | None = None, forced: tuple[str, ...] = ()) -> Any:
    wanted = names if names is not None else launch.plan(flow.config, None)
    return launch.run(flow.config, wanted, list(forced), lambda name: QuietProgress())


def test_every_component_runs_after_its_inputs_and_is_reused_the_next_time(flow: Any) -> None:
    first = run(flow)
    assert flow.ran == ["ingest", "quantize", "tokenize", "prior"]
    assert not any(result.reused for result in first.results.values())
    second = run(flow)
    assert flow.ran == ["ingest", "quantize", "tokenize", "prior"]
    assert all(result.reused for result in second.results.values())
    digests = [{name: result.artifact.digest for name, result in each.results.items()} for each in (first, second)]
    assert digests[0] == digests[1]


def test_a_changed_setting_runs_its_component_and_what_follows(flow: Any) -> None:
    run(flow)
    flow.ran.clear()
    flow.config.tokenize.views = 3
    run(flow)
    assert flow.ran == ["tokenize", "prior"]


def test_plan_of_one_component_has_its_inputs_first_and_only_has_it_alone(flow: Any) -> None:
    assert launch.plan(flow.config, "tokenize") == ["ingest", "quantize", "tokenize"]
    assert launch.plan(flow.config, "tokenize", only=True) == ["tokenize"]
    assert launch.plan(flow.config, None) == ["ingest", "quantize", "tokenize", "prior"]


def test_plan_refuses_components_that_are_unknown_or_not_in_the_preset(flow: Any) -> None:
    with pytest.raises(ConfigError, match=r"'proir' is no component; did you mean prior\?"):
        launch.plan(flow.config, "proir")
    flow.config.components.remove("prior")
    with pytest.raises(ConfigError, match="prior is not in the preset fake"):
        launch.plan(flow.config, "prior")
    with pytest.raises(ConfigError, match="name the component"):
        launch.plan(flow.config, None, only=True)


def test_a_component_alone_names_its_missing_input(flow: Any) -> None:
    with pytest.raises(DataError, match=r"tokenize needs the output of .*vimctl run \w+ --preset fake"):
        run(flow, ["tokenize"])
    assert flow.ran == []


def test_force_runs_just_what_it_names(flow: Any) -> None:
    run(flow)
    flow.ran.clear()
    run(flow, ["ingest", "quantize"], forced=("quantize",))
    assert flow.ran == ["quantize"]


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

    monkeypatch.setattr(history, "instance", ON_DISK)
    run(flow)
    flow.acts["prior"] = lambda ctx: (_ for _ in ()).throw(DataError("no"))
    flow.config.prior.steps = 7
    with pytest.raises(DataError, match="no"):
        run(flow)
    with history.instance(flow.config) as instance:
        statuses = [record.status.value for record in instance.get_runs()]
        assert sorted(statuses) == ["FAILURE", "SUCCESS"]
        event = instance.get_latest_materialization_event(dagster.AssetKey("quantize"))
        assert event is not None
        assert event.asset_materialization is not None
        metadata = event.asset_materialization.metadata
        assert metadata["reused"].value is True
        assert metadata["metric/rows"].value == 3.0
    assert "enabled: false" in (history.dagster_home(flow.config) / "dagster.yaml").read_text()


def test_a_failed_gate_stops_what_follows_and_says_what_to_do(flow: Any) -> None:
    flow.usage = 0.01
    told = r"quantize/\w{8} is kept, but .*: gate codebook_usage: .*0\.01 .*least 0\.1 .*gates\.codebook"
    with pytest.raises(GateError, match=told):
        run(flow)
    assert flow.ran == ["ingest", "quantize"]


def test_a_failed_gate_stops_later_runs_too_until_the_bound_allows_it(flow: Any) -> None:
    flow.usage = 0.05
    for names in (None, ["tokenize"]):
        with pytest.raises(GateError, match="codebook_usage"):
            run(flow, names)
    assert flow.ran == ["ingest", "quantize"]
    flow.config.gates.codebook_usage = 0.05
    run(flow)
    assert flow.ran == ["ingest", "quantize", "tokenize", "prior"]


def test_a_bound_that_is_raised_later_stops_what_was_made_already(flow: Any) -> None:
    run(flow)
    flow.config.gates.codebook_usage = 0.95
    with pytest.raises(GateError, match=r"at least 0\.95"):
        run(flow, ["prior"])


def test_images_that_got_lost_stop_everything(flow: Any) -> None:
    flow.says["ingest"] = {"read": 7}
    with pytest.raises(GateError, match="7 read, 0 in the table, 0 set aside"):
        run(flow)
    assert flow.ran == ["ingest"]


def test_codes_of_another_tokenizer_stop_the_prior(flow: Any) -> None:
    flow.says["tokenize"] = {"tokenizer": "f" * 64}
    with pytest.raises(GateError, match="gate lineage: it was made by tokenizer ffffffffffff"):
        run(flow)
    assert flow.ran == ["ingest", "quantize", "tokenize"]


def test_from_makes_a_component_and_what_depends_on_it_again(flow: Any) -> None:
    run(flow)
    flow.ran.clear()
    names = launch.plan(flow.config, None, start="tokenize")
    assert names == ["ingest", "quantize", "tokenize", "prior"]
    done = launch.run(flow.config, names, [], lambda name: QuietProgress(), start="tokenize")
    assert flow.ran == ["tokenize", "prior"]
    assert {name: result.reused for name, result in done.results.items()} == {
        "ingest": True, "quantize": True, "tokenize": False, "prior": False,
    }  # fmt: skip


def test_from_on_the_way_to_a_component(flow: Any) -> None:
    flow.config.components = ["ingest", "quantize", "tokenize", "prior"]
    assert launch.plan(flow.config, "tokenize", start="quantize") == ["ingest", "quantize", "tokenize"]
    assert launch.plan(flow.config, None, start="prior") == ["ingest", "quantize", "tokenize", "prior"]


def test_from_makes_missing_inputs_first(flow: Any) -> None:
    names = launch.plan(flow.config, None, start="prior")
    launch.run(flow.config, names, [], lambda name: QuietProgress(), start="prior")
    assert flow.ran == ["ingest", "quantize", "tokenize", "prior"]


def test_from_refuses_what_makes_no_sense(flow: Any) -> None:
    with pytest.raises(ConfigError, match="ingest is not made from tokenize; those are prior"):
        launch.plan(flow.config, "ingest", start="tokenize")
    with pytest.raises(ConfigError, match="--only and --from=prior"):
        launch.plan(flow.config, "prior", only=True, start="prior")
    with pytest.raises(ConfigError, match=r"'proir' is no component; did you mean prior"):
        launch.plan(flow.config, None, start="proir")
    flow.config.components.remove("prior")
    with pytest.raises(ConfigError, match="prior is not in the preset fake"):
        launch.plan(flow.config, None, start="prior")


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


def test_the_run_says_what_was_asked_and_who_does_it(flow: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from components.tracking.tracker import config_fingerprint

    monkeypatch.setattr(history, "instance", ON_DISK)
    tags = {"vim.job": "vim-smoke-0123456789ab-a1"}
    launch.run(flow.config, ["ingest"], [], lambda name: QuietProgress(), tags=tags)
    with history.instance(flow.config) as instance:
        (found,) = instance.get_runs()
    assert found.tags["vim/preset"] == "fake"
    assert found.tags["vim/fingerprint"] == config_fingerprint(flow.config)
    assert found.tags["vim.job"] == "vim-smoke-0123456789ab-a1"
    assert found.tags["vim/pid"] == str(os.getpid())


def test_a_run_whose_process_was_killed_is_ended(flow: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of this machine and process alone; others may still be at work."""
    import dagster

    monkeypatch.setattr(history, "instance", ON_DISK)
    gone = {"vim/host": socket.gethostname(), "vim/pid": "4194999", "vim/pid_started": "1.0"}
    here = {"vim/host": socket.gethostname(), "vim/pid": str(os.getpid())}
    here["vim/pid_started"] = str(psutil.Process().create_time())
    started = dagster.DagsterRunStatus.STARTED
    with history.instance(flow.config) as instance:
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
