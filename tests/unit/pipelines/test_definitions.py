"""Dagster's view: one asset per component, single assets, forcing, and metadata."""

from __future__ import annotations

from typing import Any

import dagster
import pytest

from pipelines import assets, session
from vim_core.errors import DataError


def materialize(flow: Any, names: list[str], **more: Any) -> dagster.ExecuteInProcessResult:
    job = assets.build(flow.config).resolve_implicit_global_asset_job_def()
    keys = [dagster.AssetKey(name) for name in names]
    return job.execute_in_process(asset_selection=keys, instance=dagster.DagsterInstance.ephemeral(), **more)


def test_assets_depend_on_each_other_as_the_components_do(flow: Any) -> None:
    graph = assets.build(flow.config).resolve_asset_graph()
    parents = {key.to_user_string(): graph.get(key).parent_keys for key in graph.get_all_asset_keys()}
    names = {name: sorted(key.to_user_string() for key in keys) for name, keys in parents.items()}
    assert names == {
        "ingest": [], "quantize": ["ingest"], "tokenize": ["ingest", "quantize"], "prior": ["quantize", "tokenize"],
    }  # fmt: skip


def test_an_optional_input_outside_the_preset_is_no_dependency(flow: Any) -> None:
    flow.config.components = ["ingest", "quantize"]
    graph = assets.build(flow.config).resolve_asset_graph()
    assert {key.to_user_string() for key in graph.get_all_asset_keys()} == {"ingest", "quantize"}


def test_one_asset_takes_its_inputs_from_the_store(flow: Any) -> None:
    materialize(flow, ["ingest", "quantize"])
    result = materialize(flow, ["tokenize"])
    assert result.success
    assert flow.ran == ["ingest", "quantize", "tokenize"]
    (event,) = result.asset_materializations_for_node("tokenize")
    assert event.metadata["reused"].value is False
    assert event.metadata["metric/rows"].value == 3.0
    assert str(event.metadata["folder"].value).startswith(flow.config.run.root)
    assert event.tags is not None
    assert event.tags["dagster/data_version"] == event.metadata["digest"].value


def test_one_asset_without_its_inputs_fails_with_the_remedy(flow: Any) -> None:
    with pytest.raises(DataError, match="prior needs the output of"):
        materialize(flow, ["prior"])


def test_force_by_config_or_by_tag(flow: Any) -> None:
    materialize(flow, ["ingest"])
    materialize(flow, ["ingest"])
    assert flow.ran == ["ingest"]
    materialize(flow, ["ingest"], run_config={"ops": {"ingest": {"config": {"force": True}}}})
    assert flow.ran == ["ingest"] * 2
    materialize(flow, ["ingest"], tags={assets.FORCE_TAG: "true"})
    assert flow.ran == ["ingest"] * 3


def test_each_dagster_run_closes_its_session_with_how_it_went(flow: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ends: list[BaseException | None] = []
    monkeypatch.setattr(session.Session, "close", lambda self: ends.append(self.error))
    materialize(flow, ["ingest"])
    refused = DataError("no")

    def fail(ctx: Any) -> None:
        raise refused

    flow.acts["quantize"] = fail
    with pytest.raises(DataError):
        materialize(flow, ["ingest", "quantize"])
    assert ends == [None, refused]


def test_what_dagster_dev_loads_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIM_PRESET", "smoke")
    monkeypatch.setenv("VIM_OVERRIDES", "'components=[ingest, quantize]' quantize.steps=3")
    from pipelines import presets

    asked: list[Any] = []
    real = presets.load
    monkeypatch.setattr(presets, "load", lambda *words: asked.append(words) or real(*words))  # type: ignore[func-returns-value]
    import importlib

    from pipelines import definitions

    importlib.reload(definitions)
    assert asked[-1] == ("smoke", ["components=[ingest, quantize]", "quantize.steps=3"])
    keys = definitions.defs.resolve_asset_graph().get_all_asset_keys()
    assert {key.to_user_string() for key in keys} == {"ingest", "quantize"}
