"""Runs in process: order, reuse, single components, errors, interruption, history."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import pytest

from components.progress import QuietProgress
from pipelines import history, launch
from vim_core.errors import ConfigError, DataError

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
    assert "enabled: false" in (history.home(flow.config) / "dagster.yaml").read_text()
