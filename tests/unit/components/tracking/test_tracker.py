"""MLflow runs of a pipeline: parent and children, continuing, reuse, outages, models; in a real MLflow store."""

from __future__ import annotations

import base64
import json
import threading
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from components import quantize
from components.contract.api import Artifact, FileEntry, InputRecord, Manifest, Row
from components.tracking import describe, models, pages
from components.tracking import tracker as tracking
from components.tracking.link import Link, ServerAway, ServerRefused, artifact_location, tracking_uri
from components.tracking.parent import ParentTracker, is_owner_gone, owner_tags
from components.tracking.run import MlflowRun
from components.tracking.shipping import Shipper
from tests.support.common import SilentProgress
from tests.unit.components.tracking.conftest import Client
from vim_core.config import PipelineConfig, RunConfig
from vim_core.errors import ConfigError, DataError

pytestmark = pytest.mark.usefixtures("patient")


@pytest.fixture
def config(tmp_path: Path) -> PipelineConfig:
    run = RunConfig(root=str(tmp_path), system_metrics=False)
    config = PipelineConfig(preset="fake", components=["ingest", "quantize"], run=run)
    config.quantize.steps = 3
    return config


def begin(config: PipelineConfig, client: Client) -> tracking.PipelineTracker:
    return tracking.open_run(config, {"dagster/run_id": "d1"}, client.link())


def artifact(folder: Path, run_id: str = "", **texts: str) -> Artifact:
    """A tokenizer whose artifact has these files, by name without its ending."""
    folder = folder / "quantize" / "f1"
    (folder / "data").mkdir(parents=True, exist_ok=True)
    files = []
    for stem, text in texts.items():
        (folder / "data" / f"{stem}.jsonl").write_text(text)
        files.append(FileEntry(f"{stem}.jsonl", f"data/{stem}.jsonl", len(text), "0" * 64))
    inputs = {"images": InputRecord("ingest", "f0", "d" * 64)}
    manifest = Manifest(
        "quantize", 1, "f1", "e" * 64, {"steps": 3, "image_size": 32}, inputs, files, {"test_psnr_db": 22.5}, {}, {},
        {"device": "cpu"}, 1.0, "a", "2026-11-30T12:00:00+00:00", run_id,
    )  # fmt: skip
    return Artifact(str(folder), manifest)


def curves(steps: int) -> str:
    return "".join(json.dumps({"step": step, "t": step, "m": {"loss": 1.0}}) + "\n" for step in range(steps))


def made(config: PipelineConfig, client: Client, folder: Path) -> Artifact:
    """An artifact that a whole run has made."""
    run = begin(config, client)
    with run.component("quantize", "f1", str(folder)) as tracker:
        pass
    result = artifact(folder, tracker.run_id)
    run.finished("quantize", result, reused=False)
    run.close("FINISHED")
    return result


def reuse(config: PipelineConfig, client: Client, result: Artifact) -> tracking.PipelineTracker:
    """A run that finds the artifact, to its end."""
    run = begin(config, client)
    run.finished("quantize", result, reused=True)
    run.wait()
    run.close("FINISHED")
    return run


def test_parent_and_child_carry_settings_results_inputs_and_descriptions(
    tmp_path: Path, config: Any, client: Client
) -> None:
    run = begin(config, client)
    with run.component("quantize", "f1", str(tmp_path)) as tracker:
        tracker.rows([Row(0, 1, {"loss": 2.0})])
        assert (tmp_path / "mlflow_run_id").read_text() == tracker.run_id
    result = artifact(tmp_path, tracker.run_id)
    result = replace(result, manifest=replace(result.manifest, properties={"summary": "3 steps in 0.01 h"}))
    run.finished("quantize", result, reused=False)
    run.report("gs://bucket/reports/fake/report.html")
    run.close("FINISHED")
    (parent,), (child,) = client.runs("pipeline"), client.runs("component")
    fingerprint = tracking.config_fingerprint(config)
    assert (parent.info.run_name, child.info.run_name) == ("fake", "quantize")
    shown = [tag for tag in parent.data.tags if not tag.startswith("mlflow.")]
    assert sorted(shown) == ["dagster/run_id", "vim.fingerprint", "vim.kind", "vim.preset"]
    for run in (parent, child):
        assert run.data.tags["mlflow.source.name"] == "vimctl run"
        assert run.data.tags["mlflow.user"]
    assert parent.info.status == child.info.status == "FINISHED"
    assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert parent.data.tags["dagster/run_id"] == child.data.tags["dagster/run_id"] == "d1"
    assert parent.data.tags["vim.fingerprint"] == fingerprint
    assert child.data.params == {"version": str(quantize.VERSION), "steps": "3"}
    assert json.loads(client.text(child.info.run_id, "settings.json", tmp_path))["optim"]["lr"] == 0.0001
    assert parent.data.metrics == {"quantize/test_psnr_db": 22.5}
    assert child.data.metrics == {"loss": 2.0, "final/test_psnr_db": 22.5}
    assert child.data.tags["vim.digest"] == "e" * 64
    (given,) = child.inputs.dataset_inputs
    assert given.dataset.digest == "d" * 36
    assert json.loads(given.dataset.profile)["digest"] == "d" * 64
    assert json.loads(given.dataset.source)["uri"].endswith("ingest/f0")
    text = child.data.tags["mlflow.note.content"]
    assert text.startswith("3 steps in 0.01 h\n\ntest_psnr_db 22.5\n\nMade from ingest/f0.")
    text = parent.data.tags["mlflow.note.content"]
    assert "console.cloud.google.com/storage/browser/bucket/reports/fake/report.html" in text
    assert "| quantize | ran | test_psnr_db 22.5 |" in text
    assert "| quantize/test_psnr_db | 22.5 |" in text


def test_runs_are_named_by_what_differs_and_no_two_alike(tmp_path: Path, config: Any, client: Client) -> None:
    config.components = ["ingest", "quantize", "tokenize", "prior"]
    config.run.changed = ["quantize.steps=3", "prior.dropout=0.2"]
    for _ in range(3):
        run = begin(config, client)
        with run.component("quantize", "f1", str(tmp_path / run.run_id)), run.component("prior", "f2", str(tmp_path)):
            pass
        run.close("FINISHED")
    names = [run.info.run_name for run in client.runs("pipeline")]
    first = "fake · quantize.steps=3 prior.dropout=0.2"
    assert names == [first, f"{first} (2)", f"{first} (3)"]
    names = [run.info.run_name for run in client.runs("component")]
    assert {"quantize · quantize.steps=3", "prior · quantize.steps=3 prior.dropout=0.2"} <= set(names)
    assert len(set(names)) == len(names)
    many = [f"prior.setting_{number}={number}" for number in range(6)]
    assert describe.title("fake", many).endswith("prior.setting_3=3 +2")


def test_the_table_of_runs_opens_with_the_headline_figures_that_runs_have(
    tmp_path: Path, config: Any, client: Client
) -> None:
    made(config, client, tmp_path)
    experiment = client.get_experiment_by_name("fake")
    saved = json.loads(experiment.tags["mlflow.sharedViewState.vim"])["state"].removeprefix("deflate;")
    state = json.loads(zlib.decompress(base64.b64decode(saved)))
    assert state["selectedColumns"] == ["metrics.`quantize/test_psnr_db`"]
    assert "| fake | 22.5 |" in experiment.tags["mlflow.note.content"]
    address = pages.runs_page("http://host:5000/", experiment.experiment_id)
    assert address.endswith(f"/#/experiments/{experiment.experiment_id}/runs?{pages.TRAINING}&viewStateShareKey=vim")
    assert pages.runs_page("http://host:5000", "") == "http://host:5000"


def test_ends_of_intervals_stay_out_of_mlflow_and_blocks_are_a_curve(
    tmp_path: Path, config: Any, client: Client
) -> None:
    run = begin(config, client)
    with run.component("quantize", "f1", str(tmp_path)) as tracker:
        pass
    result = artifact(tmp_path, tracker.run_id)
    metrics = {"fid": 2.0, "fid_low": 1.0, "fid_high": 3.0, "is_std": 1.0, "block_00": 0.5, "block_01": 0.75}
    run.finished("quantize", replace(result, manifest=replace(result.manifest, metrics=metrics)), reused=False)
    run.close("FINISHED")
    (child,) = client.runs("component")
    assert set(child.data.metrics) == {"final/fid", "final/block"}
    assert client.points(child.info.run_id, "final/block") == [(0, 0.5), (1, 0.75)]


def test_an_outage_stops_nothing_and_the_next_run_makes_up_for_it(
    tmp_path: Path, config: Any, client: Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(ParentTracker, "FLUSH_S", 0.1)
    client.away = True
    run = begin(config, client)
    with run.component("quantize", "f1", str(tmp_path)) as tracker:
        tracker.rows([Row(0, 0, {"loss": 1.0})])
        assert tracker.flush(60.0) == 1
        assert tracker.run_id == ""
    fault = json.dumps({"step": 1, "t": 1, "nonfinite": ["l2"], "samples": ["a"]}) + "\n"
    result = artifact(tmp_path, tracker.run_id, curves=curves(3), nonfinite=fault)
    run.finished("quantize", result, reused=False)
    run.close("FINISHED")
    assert "did not take" in caplog.text
    client.away = False
    assert client.runs() == []

    monkeypatch.setattr(ParentTracker, "FLUSH_S", 60.0)
    for _ in range(2):
        reuse(config, client, result)
    (child,) = client.runs("component")
    assert client.points(child.info.run_id, "train/loss") == [(step, 1.0) for step in range(3)]
    assert client.points(child.info.run_id, "train/nonfinite_steps") == [(1, 1.0)]
    assert client.points(child.info.run_id, "final/test_psnr_db") == [(0, 22.5)]
    assert client.text(child.info.run_id, "nonfinite.jsonl", tmp_path) == fault
    assert child.info.status == "FINISHED"


def test_a_server_lost_half_way_gets_only_what_it_lacks(tmp_path: Path, config: Any, client: Client) -> None:
    run = begin(config, client)
    with run.component("quantize", "f1", str(tmp_path)) as tracker:
        tracker.rows([Row(step, step, {"train/loss": 1.0}) for step in range(2)])
        assert tracker.flush(60.0) == 0
    reuse(config, client, artifact(tmp_path, tracker.run_id, curves=curves(5)))
    assert client.points(tracker.run_id, "train/loss") == [(step, 1.0) for step in range(5)]


def test_a_server_that_is_back_only_after_the_training_gets_all_of_it(
    tmp_path: Path, config: Any, client: Client
) -> None:
    run = begin(config, client)
    with run.component("quantize", "f1", str(tmp_path)) as tracker:
        (tmp_path / "spool.jsonl").write_text(curves(5))
        tracker.rows([Row(0, 0, {"train/loss": 1.0})])
        run.wait()
        client.away = True
        with Shipper(tmp_path / "spool.jsonl", tracker, SilentProgress(), poll_s=0.01, flush_s=0.05):
            pass
        client.away = False
    run.finished("quantize", artifact(tmp_path, tracker.run_id, curves=curves(5)), reused=False)
    run.close("FINISHED")
    assert client.get_run(tracker.run_id).info.status == "FINISHED"
    assert client.points(tracker.run_id, "train/loss") == [(step, 1.0) for step in range(5)]


def test_a_resumed_component_continues_its_run(tmp_path: Path, config: Any, client: Client) -> None:
    first = begin(config, client)
    with pytest.raises(KeyboardInterrupt), first.component("quantize", "f1", str(tmp_path)) as tracker:
        raise KeyboardInterrupt
    first.close("KILLED")
    assert client.get_run(tracker.run_id).info.status == "KILLED"
    with begin(config, client).component("quantize", "f1", str(tmp_path)) as again:
        assert again.run_id == tracker.run_id
        assert client.get_run(again.run_id).info.status == "RUNNING"


def test_a_run_id_the_server_does_not_know_starts_a_new_run(tmp_path: Path, config: Any, client: Client) -> None:
    (tmp_path / "mlflow_run_id").write_text("0" * 32)
    with begin(config, client).component("quantize", "f1", str(tmp_path)) as tracker:
        assert [run.info.run_id for run in client.runs("component")] == [tracker.run_id]


def test_a_failure_is_marked_and_comes_out(tmp_path: Path, config: Any, client: Client) -> None:
    run = begin(config, client)
    with pytest.raises(DataError), run.component("quantize", "f1", str(tmp_path)):
        raise DataError("no")
    run.close("FAILED")
    assert {each.info.status for each in client.runs()} == {"FAILED"}


def test_only_an_abandoned_run_of_the_same_settings_is_continued(
    config: Any, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    newest = begin(config, client).run_id
    for status, gone, continued in [
        ("RUNNING", True, True), ("KILLED", True, True), ("RUNNING", False, False), ("FINISHED", True, False),
        ("FAILED", True, False),
    ]:  # fmt: skip
        client.update_run(newest, status=status)
        monkeypatch.setattr(tracking, "is_owner_gone", lambda tags, gone=gone: gone)
        run = begin(config, client)
        assert (run.run_id == newest) is continued, (status, gone)
        newest = run.run_id
        assert client.get_run(newest).info.status == "RUNNING"
    monkeypatch.setattr(tracking, "is_owner_gone", lambda tags: True)
    config.quantize.steps = 7
    assert begin(config, client).run_id != newest


def test_an_owner_is_gone_when_its_process_is_or_its_beat_is_old() -> None:
    for prefix in ("mlflow.vim.", ".dagster/vim/", "vim.", "vim/"):  # the last two are of earlier versions
        alive = owner_tags(prefix)
        assert not is_owner_gone(alive)
        assert is_owner_gone({**alive, f"{prefix}pid_started": "1"})
        assert not is_owner_gone({**alive, f"{prefix}host": "another"})
        assert is_owner_gone({**alive, f"{prefix}host": "another", f"{prefix}beat": "1000"})


def test_an_answer_lost_on_the_way_does_not_make_a_second_run(client: Client) -> None:
    def lost(*arguments: Any, **named: Any) -> Any:
        client.client.create_run(*arguments, **named)
        client.replaced.clear()
        raise ConnectionError("reset")

    client.replaced["create_run"] = lost
    run = MlflowRun(client.link(), lambda: "0", "quantize", dict)
    with pytest.raises(ServerAway):
        run.metrics(0, {"loss": 1.0})
    run.metrics(0, {"loss": 1.0})
    assert [each.info.run_id for each in client.runs()] == [run.run_id]


def test_a_refused_call_is_noted_and_not_repeated(client: Client) -> None:
    link = client.link()
    run = MlflowRun(link, lambda: "0", "quantize", dict)
    run.change(lambda each, run_id: each.get_run("0" * 32))
    assert len(link.refused) == 1
    run.params({"steps": 3})
    run.params({"steps": 4})
    assert "steps" in link.refused[1]


def test_a_link_rests_after_a_failure_and_says_it_once(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    now = [0.0]
    link = Link("memory", lambda uri: client, rest_s=5.0, clock=lambda: now[0])
    client.away = True
    for _ in range(3):
        with pytest.raises(ServerAway):
            link.call(lambda each: each.get_run("r"))
    assert client.calls == 1
    now[0] = 6.0
    client.away = False
    with pytest.raises(ServerRefused):
        link.call(lambda each: each.get_run("r"))
    assert len(caplog.records) == 1


def test_a_picture_goes_to_the_grid_or_stands_alone_and_of_waiting_texts_the_last_counts(
    tmp_path: Path, config: Any, client: Client
) -> None:
    from PIL import Image

    Image.new("RGB", (4, 4)).save(tmp_path / "grid.png")
    delivered = threading.Event()
    run = begin(config, client)
    with run.component("quantize", "f1", str(tmp_path)) as tracker:
        client.away = True
        tracker.image("grid", str(tmp_path / "grid.png"), 3, delivered.set)
        tracker.image("alone", (tmp_path / "grid.png").read_bytes())
        for text in ("first", "second"):
            tracker.text("notes.txt", text)
        assert not delivered.is_set()
        client.away = False
        run.wait()
    run.close("FINISHED")
    assert delivered.is_set()
    paths = [file.path for file in client.list_artifacts(tracker.run_id, "images")]
    assert len([path for path in paths if path.startswith("images/grid") and "step" in path]) == 2, "and a thumbnail"
    assert [file.path for file in client.list_artifacts(tracker.run_id, "pictures")] == ["pictures/alone.png"]
    assert client.text(tracker.run_id, "notes.txt", tmp_path) == "second"


def test_addresses(tmp_path: Path) -> None:
    local = RunConfig(root=str(tmp_path))
    assert tracking_uri(local) == f"sqlite:///{tmp_path}/mlflow.db"
    assert artifact_location(local) == f"file://{tmp_path}/mlartifacts"
    assert tracking_uri(RunConfig(tracking_uri="http://host:5000")) == "http://host:5000"
    assert artifact_location(RunConfig(tracking_uri="http://host:5000")) is None
    assert tracking_uri(RunConfig(root="gs://bucket/x", tracking_uri="off")) is None
    with pytest.raises(ConfigError, match=r"run.tracking_uri='': run.root=gs://bucket/x is remote"):
        tracking_uri(RunConfig(root="gs://bucket/x"))


def test_a_reused_artifact_has_one_run_and_one_model_version(tmp_path: Path, config: Any, client: Client) -> None:
    def versions() -> list[Any]:
        found = client.search_model_versions("name = 'vim-fake-tokenizer'")
        return sorted(found, key=lambda version: int(version.version))

    result = made(config, client, tmp_path)
    again = reuse(config, client, result)
    assert len(client.runs("component")) == 1
    tags = client.get_run(again.run_id).data.tags
    assert tags["reused.quantize"] == f"f1 run {result.manifest.mlflow_run_id}"
    (version,) = versions()
    assert version.run_id == result.manifest.mlflow_run_id
    assert version.tags["vim.digest"] == "e" * 64
    # MLflow's page of the version shows the signature of this file.
    assert version.source == f"runs:/{version.run_id}/model"
    described = yaml.safe_load(client.text(version.run_id, "model/MLmodel", tmp_path))
    (images,), (codes,) = (json.loads(described["signature"][name]) for name in ("inputs", "outputs"))
    assert (images["tensor-spec"]["shape"], codes["tensor-spec"]["dtype"]) == ([-1, 3, 32, 32], "int64")
    assert described["flavors"]["vim"]["artifact"] == result.folder
    assert version.tags["vim.input.images"] == "d" * 64
    assert version.tags["vim.artifact"] == result.folder
    assert version.description == f"test_psnr_db 22.5; {result.folder}"
    retrained = replace(result, manifest=replace(result.manifest, digest="1" * 64))
    config.run.register = False
    reuse(config, client, retrained)
    assert len(versions()) == 1
    config.run.register = True
    reuse(config, client, retrained)
    assert [version.tags["vim.digest"][0] for version in versions()] == ["e", "1"]


@pytest.mark.parametrize(
    ("component", "properties", "expected"),
    [
        ("quantize", {"image_size": 64, "grid": [8, 8]}, ([-1, 3, 64, 64], [-1, 64])),
        ("prior", {"classes": ["a", "b"]}, ([-1], [-1, -1])),
        ("classify", {"classes": ["a", "b"]}, ([-1, 3, 32, 32], [-1, 2])),
    ],
)
def test_signatures(tmp_path: Path, component: str, properties: dict[str, Any], expected: Any) -> None:
    plain = artifact(tmp_path)
    changed: Any = {"component": component, "properties": properties, "config": {"image_size": 32}}
    parts = models.signature(replace(plain, manifest=replace(plain.manifest, **changed)))
    assert tuple(part["tensor-spec"]["shape"] for part in parts) == expected


def test_of_two_that_register_at_once_one_stays(tmp_path: Path, client: Client) -> None:
    def raced(*arguments: Any) -> Any:
        client.client.create_model_version(*arguments)
        return client.client.create_model_version(*arguments)

    client.replaced["create_model_version"] = raced
    result = artifact(tmp_path)
    models.register(client, "fake", result, ())
    (version,) = client.search_model_versions("name = 'vim-fake-tokenizer'")
    assert (int(version.version), version.run_id, version.source) == (1, None, result.folder)


def test_a_registry_that_fails_holds_nothing_up(tmp_path: Path, config: Any, client: Client) -> None:
    def broken(query: str) -> list[Any]:
        raise RuntimeError("no registry here")

    client.replaced["search_model_versions"] = broken
    made(config, client, tmp_path)
    (parent,) = client.runs("pipeline")
    assert parent.info.status == "FINISHED"
    assert "test_psnr_db 22.5" in parent.data.tags["mlflow.note.content"]


def test_a_run_in_a_job_carries_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    assert describe.job_tag() == {}
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", '{"metadata": {"job_submission_id": "raysubmit_1"}}')
    assert describe.job_tag() == {"vim.job": "raysubmit_1"}
    monkeypatch.setenv("VIM_JOB", "vim-3fa2-1")
    assert describe.job_tag() == {"vim.job": "vim-3fa2-1"}


def test_tracking_switched_off_touches_nothing(tmp_path: Path) -> None:
    run = tracking.open_run(PipelineConfig(run=RunConfig(root=str(tmp_path), tracking_uri="off")))
    with run.component("quantize", "f1", str(tmp_path)) as tracker:
        tracker.rows([Row(0, 0, {"loss": 1.0})])
        tracker.image("grid", "nowhere.png", 3)
        assert tracker.flush(60.0) == 0
    run.finished("quantize", artifact(tmp_path / "elsewhere"), reused=False)
    run.close("FINISHED")
    assert run.record() == {}
    assert [path.name for path in tmp_path.iterdir()] == ["elsewhere"]
