"""Dagster's view: one asset per component, single assets, forcing, and metadata."""

from __future__ import annotations

import base64
import io as memory
from typing import Any

import dagster
import pytest
from PIL import Image

from components.artifacts import format
from components.tracking.progress import LineProgress
from pipelines.orchestration import assets, history, running, session
from vim_core.errors import DataError

PNG = b"\x89PNG\r\n\x1a\n of no size"


def materialize(flow: Any, names: list[str], **options: Any) -> dagster.ExecuteInProcessResult:
    job = assets.build(flow.config).resolve_implicit_global_asset_job_def()
    keys = [dagster.AssetKey(name) for name in names]
    with history.instance(flow.config) as instance:
        return job.execute_in_process(asset_selection=keys, instance=instance, **options)


def test_assets_depend_on_each_other_as_the_components_do(flow: Any) -> None:
    # An edge beside a longer path would only draw a line more.
    parents = {"ingest": set(), "quantize": {"ingest"}, "tokenize": {"quantize"}, "prior": {"tokenize"}}
    for components in (["ingest", "quantize", "tokenize", "prior"], ["ingest", "quantize"]):
        flow.config.components = components
        graph = assets.build(flow.config).resolve_asset_graph()
        keys = {key.to_user_string(): key for key in graph.get_all_asset_keys()}
        assert set(keys) == set(components)
        for name, key in keys.items():
            assert {parent.to_user_string() for parent in graph.get(key).parent_keys} == parents[name]


def test_config_and_tags_make_existing_artifacts_again(flow: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["ingest", "quantize", "tokenize", "prior"]
    materialize(flow, names)
    for options, ran in (
        ({"run_config": {"ops": {"ingest": {"config": {"force": True}}}}}, ["ingest"]),
        ({"tags": {assets.FORCE_TAG: "true"}}, names),
        ({"tags": {assets.FROM_TAG: "tokenize"}}, ["tokenize", "prior"]),
    ):
        flow.ran.clear()
        materialize(flow, names, **options)
        assert flow.ran == ran
    definitions = assets.build(flow.config)
    for name, ran in (("fake", []), ("fake_make_again", names)):
        flow.ran.clear()
        with history.instance(flow.config) as instance:
            definitions.resolve_job_def(name).execute_in_process(instance=instance)
        assert flow.ran == ran
    description = definitions.resolve_asset_graph().get(dagster.AssetKey("prior")).description
    assert "is reused" in str(description)
    assert "`fake_make_again`" in str(description)
    monkeypatch.setenv(session.MLFLOW_URL, "http://127.0.0.1:5001")
    monkeypatch.setenv(session.MLFLOW_EXPERIMENT, "3")
    assert "(http://127.0.0.1:5001/#/experiments/3/runs?" in assets.describe("An asset.", flow.config)


def test_gates_are_checks_that_block(flow: Any) -> None:
    result = materialize(flow, ["ingest", "quantize"])
    passed = {
        (each.asset_key.to_user_string(), each.check_name): each.passed for each in result.get_asset_check_evaluations()
    }
    assert passed == {
        ("ingest", "images_accounted_for"): True,
        ("ingest", "images_suffice"): True,
        ("quantize", "finite"): True,
        ("quantize", "codebook_usage"): True,
        ("quantize", "lineage"): True,
        ("quantize", "learnt"): True,
    }
    flow.config.gates.codebook_usage = 0.95
    result = materialize(flow, ["quantize", "tokenize"], raise_on_error=False)
    assert not result.success
    (failed,) = [each for each in result.get_asset_check_evaluations() if not each.passed]
    assert (failed.check_name, failed.blocking) == ("codebook_usage", True)
    assert "gates.codebook_usage=0.9" in str(failed.description)
    assert {event.step_key for event in result.all_events if event.event_type_value == "STEP_START"} == {"quantize"}
    assert flow.ran == ["ingest", "quantize"]


def test_advice_warns_and_blocks_nothing(flow: Any, caplog: pytest.LogCaptureFixture) -> None:
    flow.usage = 0.15
    result = materialize(flow, ["ingest", "quantize", "tokenize"])
    (failed,) = [each for each in result.get_asset_check_evaluations() if not each.passed]
    assert (failed.check_name, failed.blocking, failed.severity) == ("learnt", False, dagster.AssetCheckSeverity.WARN)
    assert "15% of the codes are in use. try quantize.codebook.restart.every=10" in str(failed.description)
    assert flow.ran == ["ingest", "quantize", "tokenize"]
    assert [record.message for record in caplog.records if "15% of the codes" in record.message] != []


def test_metadata_with_pictures_and_headline_figures_first(flow: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(format.HEADLINES, "quantize", ("rows",))
    result = materialize(flow, ["ingest", "quantize"])
    (event,) = result.asset_materializations_for_node("quantize")
    assert list(event.metadata)[:2] == ["metric/rows", "picture/reconstructions"]
    shown = event.metadata["picture/reconstructions"].value
    assert shown == f"![picture/reconstructions](data:image/png;base64,{base64.b64encode(PNG).decode()})"
    monkeypatch.setattr(assets, "INLINE_BYTES", 3)
    noise = memory.BytesIO()
    Image.effect_noise((400, 400), 90).save(noise, "PNG")
    monkeypatch.setattr(assets, "SHOWN_SIDE", 50)
    assert Image.open(memory.BytesIO(assets._scaled_down(noise.getvalue()))).size == (50, 50)
    result = materialize(flow, ["quantize"])
    (event,) = result.asset_materializations_for_node("quantize")
    assert str(event.metadata["picture/reconstructions"].value).endswith("/pictures/reconstructions-00000009.png")
    # A single asset takes its inputs from the store.
    result = materialize(flow, ["tokenize"])
    assert flow.ran == ["ingest", "quantize", "tokenize"]
    (event,) = result.asset_materializations_for_node("tokenize")
    assert (event.metadata["reused"].value, event.metadata["metric/rows"].value) == (False, 3.0)
    assert str(event.metadata["folder"].value).startswith(flow.config.run.root)
    assert event.tags is not None
    assert event.tags["dagster/data_version"] == event.metadata["digest"].value


def test_the_link_to_mlflow_leads_where_people_see_it(flow: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(session.MLFLOW_URL, raising=False)

    class Tracked:
        uri, experiment_id = "sqlite:////somewhere/mlflow.db", "3"

    current: Any = session.Session(flow.config, lambda name: LineProgress(name, print), Tracked())  # type: ignore[arg-type]
    # Runs of the command line link to where `vimctl ui` showed MLflow last, or does by default.
    assert (
        assets.mlflow_url(current, "abc")
        == "http://127.0.0.1:5000/#/experiments/3/runs/abc?workflowType=machine_learning"
    )
    running.announce(flow.config, {}, {"MLflow": "http://127.0.0.1:5777"})
    assert (
        assets.mlflow_url(current, "abc")
        == "http://127.0.0.1:5777/#/experiments/3/runs/abc?workflowType=machine_learning"
    )
    monkeypatch.setenv(session.MLFLOW_URL, "http://127.0.0.1:5001")
    assert (
        assets.mlflow_url(current, "abc")
        == "http://127.0.0.1:5001/#/experiments/3/runs/abc?workflowType=machine_learning"
    )
    assert assets.mlflow_url(current, "") == ""
    Tracked.uri = "https://mlflow.example.org/"
    assert (
        assets.mlflow_url(current, "abc")
        == "https://mlflow.example.org/#/experiments/3/runs/abc?workflowType=machine_learning"
    )


def test_runs_of_the_page_take_turns_on_the_accelerator_and_carry_tags(flow: Any) -> None:
    flow.config.run.device = "cpu"
    made = assets.build(flow.config)
    pools = {
        key.to_user_string(): made.resolve_assets_def(key).op.pool
        for key in made.resolve_asset_graph().get_all_asset_keys()
    }
    assert pools == {
        "ingest": None, "quantize": "accelerator/cpu", "tokenize": None, "prior": "accelerator/cpu",
    }  # fmt: skip
    own = assets.build(flow.config, dagster.ResourceDefinition.none_resource())
    assert own.resolve_assets_def("prior").op.pool is None
    result = materialize(flow, ["ingest"])
    with history.instance(flow.config) as instance:
        run = instance.get_run_by_id(result.run_id)
    assert run is not None
    assert run.tags["vim/preset"] == "fake"
    assert {f".dagster/vim/{name}" for name in ("fingerprint", "host", "pid")} <= set(run.tags)


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
