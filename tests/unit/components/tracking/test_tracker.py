"""MLflow runs: parent and children, continuing, reuse, outages; against a client that lives in memory."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace as Namespace
from typing import Any

import pytest

from components import quantize
from components.contract.api import Artifact, FileEntry, InputRecord, Manifest, Row
from components.tracking import describe, models, owner
from components.tracking import tracker as tracking
from components.tracking.deliveries import Deliveries
from components.tracking.link import Link, ServerAway, ServerRefused, artifact_location, tracking_uri
from components.tracking.run import MlflowRun, OffTracker
from components.tracking.shipping import Shipper
from tests.support.common import SilentProgress
from vim_core.config import PipelineConfig, RunConfig
from vim_core.errors import ConfigError, DataError


class Refusal(Exception):
    def get_http_status_code(self) -> int:
        return 404


class AlreadyThere(Exception):
    error_code = "RESOURCE_ALREADY_EXISTS"


class Client:
    """What tracking uses of an MlflowClient; `away` makes every call fail."""

    def __init__(self) -> None:
        self.runs: dict[str, Any] = {}
        self.experiments: dict[str, str] = {}
        self.models: dict[str, list[Any]] = {}
        self.away = False
        self.calls = 0
        self._numbers = itertools.count()

    def __getattribute__(self, name: str) -> Any:
        value = object.__getattribute__(self, name)
        if callable(value) and not name.startswith("_"):
            self.calls += 1
            if self.away:
                raise ConnectionError("refused")
        return value

    def get_experiment_by_name(self, name: str) -> Any:
        known = self.experiments.get(name)
        return known and Namespace(experiment_id=known, lifecycle_stage="active")

    def create_experiment(self, name: str, artifact_location: str | None) -> str:
        self.experiments[name] = f"e{len(self.experiments)}"
        return self.experiments[name]

    def create_run(self, experiment: str, tags: dict[str, str], run_name: str) -> Any:
        run_id = f"r{next(self._numbers)}"
        info = Namespace(run_id=run_id, status="RUNNING")
        data = Namespace(tags=dict(tags), params={}, points=[], inputs=[], pictures=[], texts={})
        self.runs[run_id] = Namespace(info=info, data=data, name=run_name)
        return self.runs[run_id]

    def get_run(self, run_id: str) -> Any:
        if run_id not in self.runs:
            raise Refusal(run_id)
        return self.runs[run_id]

    def update_run(self, run_id: str, status: str) -> None:
        self.get_run(run_id).info.status = status

    def set_tag(self, run_id: str, name: str, value: str) -> None:
        self.get_run(run_id).data.tags[name] = value

    def log_batch(self, run_id: str, metrics: Any = (), params: Any = (), tags: Any = ()) -> None:
        data = self.get_run(run_id).data
        data.points += [(point.key, point.step, point.value) for point in metrics]
        data.params.update({param.key: param.value for param in params})
        data.tags.update({tag.key: tag.value for tag in tags})

    def log_text(self, run_id: str, text: str, name: str) -> None:
        self.get_run(run_id).data.texts[name] = text

    def log_inputs(self, run_id: str, inputs: Any) -> None:
        self.get_run(run_id).data.inputs += inputs

    def get_metric_history(self, run_id: str, key: str) -> list[Any]:
        return [Namespace(step=step) for name, step, _ in self.get_run(run_id).data.points if name == key]

    def set_terminated(self, run_id: str, status: str) -> None:
        self.get_run(run_id).info.status = status

    def create_registered_model(self, name: str, tags: dict[str, str], description: str) -> None:
        if name in self.models:
            raise AlreadyThere(name)
        self.models[name] = []

    def search_model_versions(self, query: str) -> list[Any]:
        name, digest = (part.split(" = ")[1].strip("'") for part in query.split(" and "))
        return [each for each in self.models.get(name, []) if each.tags["vim.digest"] == digest]

    def create_model_version(
        self, name: str, source: str, run_id: str | None, tags: dict[str, str], link: None, text: str, patience: int
    ) -> Any:
        version = str(len(self.models[name]) + 1)
        self.models[name].append(Namespace(version=version, source=source, run_id=run_id, tags=tags, text=text))
        return self.models[name][-1]

    def delete_model_version(self, name: str, version: str) -> None:
        self.models[name] = [each for each in self.models[name] if each.version != version]

    def search_runs(self, experiments: list[str], query: str, max_results: int = 100, order_by: Any = ()) -> list[Any]:
        wanted = [part.split(" = ") for part in query.split(" and ")]
        found = [
            run for run in self.runs.values() if all(_matches(run, key, value.strip("'")) for key, value in wanted)
        ]
        return found[::-1][:max_results]


def _matches(run: Any, key: str, value: str) -> bool:
    if key == "attributes.status":
        return bool(run.info.status == value)
    return bool(run.data.tags.get(key.removeprefix("tags.").strip("`")) == value)


@pytest.fixture(autouse=True)
def entities(monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow's value types without the seconds its import takes."""
    import sys

    plain: Callable[..., Any] = lambda *names: lambda *values: Namespace(**dict(zip(names, values, strict=True)))  # noqa: E731
    fake = Namespace(
        Metric=plain("key", "value", "timestamp", "step"), Param=plain("key", "value"), RunTag=plain("key", "value"),
        InputTag=plain("key", "value"), DatasetInput=plain("dataset", "tags"),
        Dataset=plain("name", "digest", "source_type", "source", "schema", "profile"),
    )  # fmt: skip
    monkeypatch.setitem(sys.modules, "mlflow", Namespace(entities=fake))
    monkeypatch.setitem(sys.modules, "mlflow.entities", fake)


@pytest.fixture
def client() -> Client:
    return Client()


@pytest.fixture
def config(tmp_path: Path) -> PipelineConfig:
    run = RunConfig(root=str(tmp_path), system_metrics=False)
    made = PipelineConfig(preset="fake", components=["ingest", "quantize"], run=run)
    made.quantize.steps = 3
    return made


def begin(config: PipelineConfig, client: Client) -> Any:
    return tracking.open_run(config, {"dagster/run_id": "d1"}, Link("memory", lambda uri: client, rest_s=0.0))


def artifact(tmp_path: Path, run_id: str = "", curves: str = "", faults: str = "") -> Artifact:
    folder = tmp_path / "quantize" / "f1"
    (folder / "data").mkdir(parents=True, exist_ok=True)
    files = []
    for name, text in {"curves.jsonl": curves, "nonfinite.jsonl": faults}.items():
        (folder / "data" / name).write_text(text)
        files += [FileEntry(name, f"data/{name}", len(text), "0" * 64)] if text else []
    inputs = {"images": InputRecord("ingest", "f0", "d" * 64)}
    figures = {"test_psnr_db": 22.5}
    manifest = Manifest(
        "quantize", 1, "f1", "e" * 64, {"steps": 3}, inputs, files, figures, {}, {}, {"device": "cpu"}, 1.0,
        "a", "now", run_id,
    )  # fmt: skip
    return Artifact(str(folder), manifest)


def test_parent_and_child_carry_what_was_asked_made_and_read(tmp_path: Path, config: Any, client: Client) -> None:
    run = begin(config, client)
    with run.component("quantize", "f1", str(tmp_path)) as tracker:
        assert tracker.rows([Row(0, 1, {"loss": 2.0})])
        assert (tmp_path / "mlflow_run_id").read_text() == tracker.run_id
    run.finished("quantize", artifact(tmp_path, tracker.run_id), reused=False)
    run.close("FINISHED")
    parent, child = client.runs.values()
    assert (parent.name, child.name, parent.info.status, child.info.status) == (
        f"fake {tracking.config_fingerprint(config)[:8]}",
        "quantize",
        "FINISHED",
        "FINISHED",
    )
    assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert parent.data.tags["dagster/run_id"] == child.data.tags["dagster/run_id"] == "d1"
    assert parent.data.tags["vim.fingerprint"] == tracking.config_fingerprint(config)
    assert child.data.params == {"version": str(quantize.VERSION), "steps": "3"}
    assert json.loads(child.data.texts["settings.json"])["optim"]["lr"] == 0.0001
    assert parent.data.points == [("quantize/test_psnr_db", 0, 22.5)]
    assert child.data.points == [("loss", 0, 2.0), ("final/test_psnr_db", 0, 22.5)]
    assert child.data.tags["vim.digest"] == "e" * 64
    (given,) = child.data.inputs
    assert given.dataset.digest == "d" * 36
    assert json.loads(given.dataset.profile)["digest"] == "d" * 64
    assert json.loads(given.dataset.source)["uri"].endswith("ingest/f0")


def test_a_trainings_last_line_is_its_runs_description(tmp_path: Path, config: Any, client: Client) -> None:
    run = begin(config, client)
    with run.component("quantize", "f1", str(tmp_path)) as tracker:
        pass
    made = artifact(tmp_path, tracker.run_id)
    made = replace(made, manifest=replace(made.manifest, properties={"summary": "3 steps in 0.01 h"}))
    run.finished("quantize", made, reused=False)
    run.close("FINISHED")
    text = client.runs[tracker.run_id].data.tags["mlflow.note.content"]
    assert text.startswith("3 steps in 0.01 h\n\ntest_psnr_db 22.5\n\nMade from ingest/f0.")


def test_reuse_is_a_tag_of_the_parent_and_no_second_run(tmp_path: Path, config: Any, client: Client) -> None:
    client.runs["old"] = Namespace(info=Namespace(run_id="old", status="FINISHED"), data=Namespace(tags={}))
    run = begin(config, client)
    run.finished("quantize", artifact(tmp_path, "old"), reused=True)
    run.close("FINISHED")
    assert len(client.runs) == 2
    assert client.runs[run.run_id].data.tags["reused.quantize"] == "f1 run old"


def test_an_outage_stops_nothing_and_the_next_run_makes_up_for_it(
    tmp_path: Path, config: Any, client: Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tracking, "FLUSH_S", 0.1)
    client.away = True
    run = begin(config, client)
    with run.component("quantize", "f1", str(tmp_path)) as tracker:
        assert not tracker.metrics(0, {"loss": 1.0})
        assert tracker.last_step("loss") is None
        assert tracker.run_id == ""
    curves = "".join(json.dumps({"step": step, "t": step, "m": {"loss": 1.0}}) + "\n" for step in range(3))
    fault = json.dumps({"step": 1, "t": 1, "nonfinite": ["l2"], "samples": ["a"]}) + "\n"
    made = artifact(tmp_path, tracker.run_id, curves, fault)
    run.finished("quantize", made, reused=False)
    run.close("FINISHED")
    assert "did not take" in caplog.text
    assert client.runs == {}

    client.away = False
    for _ in range(2):
        again = begin(config, client)
        again.finished("quantize", made, reused=True)
        assert again._deliveries.settle(10.0)
        again.close("FINISHED")
    children = [each for each in client.runs.values() if each.data.tags["vim.kind"] == "component"]
    assert len(children) == 1
    losses = [("train/loss", step, 1.0) for step in range(3)]
    assert children[0].data.points == [*losses, ("train/nonfinite_steps", 1, 1.0), ("final/test_psnr_db", 0, 22.5)]
    assert children[0].data.texts["nonfinite.jsonl"] == fault
    assert children[0].info.status == "FINISHED"


def test_a_server_lost_half_way_gets_only_what_it_lacks(tmp_path: Path, config: Any, client: Client) -> None:
    run = begin(config, client)
    with run.component("quantize", "f1", str(tmp_path)) as tracker:
        tracker.rows([Row(0, 1, {"train/loss": 1.0}), Row(1, 1, {"train/loss": 1.0})])
    curves = "".join(json.dumps({"step": step, "t": step, "m": {"loss": 1.0}}) + "\n" for step in range(5))
    again = begin(config, client)
    again.finished("quantize", artifact(tmp_path, tracker.run_id, curves), reused=True)
    assert again._deliveries.settle(10.0)
    points = client.runs[tracker.run_id].data.points
    assert [step for name, step, _ in points if name == "train/loss"] == [0, 1, 2, 3, 4]


def test_a_server_that_is_back_only_after_the_training_gets_all_of_it(
    tmp_path: Path, config: Any, client: Client
) -> None:
    run = begin(config, client)
    rows = [{"step": step, "t": step, "m": {"loss": 1.0}} for step in range(5)]
    curves = "".join(json.dumps(row) + "\n" for row in rows)
    with run.component("quantize", "f1", str(tmp_path)) as tracker:
        (tmp_path / "spool.jsonl").write_text(curves)
        tracker.rows([Row(0, 0, {"train/loss": 1.0})])
        client.away = True
        with Shipper(str(tmp_path / "spool.jsonl"), tracker, SilentProgress(), poll_s=0.01, flush_s=0.05):
            pass
        client.away = False
    run.finished("quantize", artifact(tmp_path, tracker.run_id, curves), reused=False)
    run.close("FINISHED")
    made = client.runs[tracker.run_id]
    assert made.info.status == "FINISHED"
    assert [step for name, step, _ in made.data.points if name == "train/loss"] == [0, 1, 2, 3, 4]


def test_a_resumed_component_continues_its_run(tmp_path: Path, config: Any, client: Client) -> None:
    first = begin(config, client)
    with pytest.raises(KeyboardInterrupt), first.component("quantize", "f1", str(tmp_path)) as tracker:
        raise KeyboardInterrupt
    first.close("KILLED")
    assert client.runs[tracker.run_id].info.status == "KILLED"
    second = begin(config, client)
    with second.component("quantize", "f1", str(tmp_path)) as again:
        assert again.run_id == tracker.run_id
        assert client.runs[again.run_id].info.status == "RUNNING"


def test_a_run_id_the_server_does_not_know_starts_a_new_run(tmp_path: Path, config: Any, client: Client) -> None:
    (tmp_path / "mlflow_run_id").write_text("of-another-server")
    with begin(config, client).component("quantize", "f1", str(tmp_path)) as tracker:
        assert tracker.run_id in client.runs


def test_a_failure_is_marked_and_comes_out(tmp_path: Path, config: Any, client: Client) -> None:
    run = begin(config, client)
    with pytest.raises(DataError), run.component("quantize", "f1", str(tmp_path)) as tracker:
        raise DataError("no")
    run.close("FAILED")
    assert client.runs[tracker.run_id].info.status == client.runs[run.run_id].info.status == "FAILED"


@pytest.mark.parametrize(
    ("status", "gone", "steps", "continued"),
    [
        ("RUNNING", True, 3, True), ("KILLED", True, 3, True), ("RUNNING", False, 3, False),
        ("FINISHED", True, 3, False), ("FAILED", True, 3, False), ("RUNNING", True, 7, False),
    ],
)  # fmt: skip
def test_only_an_abandoned_run_of_the_same_settings_is_continued(
    config: Any, client: Client, monkeypatch: pytest.MonkeyPatch, status: str, gone: bool, steps: int, continued: bool
) -> None:
    first = begin(config, client)
    client.runs[first.run_id].info.status = status
    monkeypatch.setattr(tracking, "owner_gone", lambda tags: gone)
    config.quantize.steps = steps
    second = begin(config, client)
    assert (second.run_id == first.run_id) is continued
    assert client.runs[second.run_id].info.status == "RUNNING"


def test_where_it_runs_is_no_part_of_the_settings_fingerprint(config: Any) -> None:
    before = tracking.config_fingerprint(config)
    config.run.root = "elsewhere"
    config.quantize.log_every = 3
    assert tracking.config_fingerprint(config) == before
    config.quantize.seed = 3
    assert tracking.config_fingerprint(config) != before


def test_an_owner_is_gone_when_its_process_is_or_its_beat_is_old() -> None:
    alive = owner.owner_tags()
    assert not owner.owner_gone(alive)
    assert owner.owner_gone({**alive, "vim.pid_started": "1"})
    assert owner.owner_gone({**alive, "vim.pid": str(2**22 + 1)})
    assert not owner.owner_gone({**alive, "vim.host": "another"})
    assert owner.owner_gone({**alive, "vim.host": "another", "vim.beat": "1000"})


def test_an_answer_lost_on_the_way_does_not_make_a_second_run(client: Client) -> None:
    create = client.create_run

    def lost(*arguments: Any, **more: Any) -> Any:
        create(*arguments, **more)
        client.create_run = create  # type: ignore[method-assign]
        raise ConnectionError("reset")

    client.create_run = lost  # type: ignore[method-assign]
    run = MlflowRun(Link("memory", lambda uri: client, rest_s=0.0), lambda: "e0", "quantize", dict)
    assert not run.metrics(0, {"loss": 1.0})
    assert run.metrics(0, {"loss": 1.0})
    assert list(client.runs) == [run.run_id]


def test_a_refused_call_is_not_repeated_and_counted(client: Client) -> None:
    run = MlflowRun(Link("memory", lambda uri: client), lambda: "e0", "quantize", dict)
    run.open()
    assert run.change(lambda each, run_id: each.get_run("unknown"))
    assert run.refused == ["unknown"]


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


def test_deliveries_keep_their_order_over_failures_and_say_what_is_left() -> None:
    done: list[str] = []
    answers = iter([False, False, True])
    queue = Deliveries(retry_s=0.01)

    def act(name: str, taken: bool) -> bool:
        done.extend([name] if taken else [])
        return taken

    queue.add("first", lambda: act("first", next(answers)))
    queue.add("second", lambda: act("second", True))
    assert queue.close(10.0) == []
    assert done == ["first", "second"]
    stuck = Deliveries(retry_s=0.01)
    stuck.add("third", lambda: False)
    stuck.add("fourth", lambda: True)
    assert not stuck.settle(10.0)
    assert stuck.close(0.05) == ["third", "fourth"]


def test_addresses(tmp_path: Path) -> None:
    local = RunConfig(root=str(tmp_path))
    assert tracking_uri(local) == f"sqlite:///{tmp_path}/mlflow.db"
    assert artifact_location(local) == f"file://{tmp_path}/mlartifacts"
    assert tracking_uri(RunConfig(tracking_uri="http://host:5000")) == "http://host:5000"
    assert artifact_location(RunConfig(tracking_uri="http://host:5000")) is None
    assert tracking_uri(RunConfig(root="gs://bucket/x", tracking_uri="off")) is None
    with pytest.raises(ConfigError, match=r"run.tracking_uri='': run.root=gs://bucket/x is remote"):
        tracking_uri(RunConfig(root="gs://bucket/x"))


def test_a_trained_network_is_one_version_of_its_model(tmp_path: Path, config: Any, client: Client) -> None:
    run = begin(config, client)
    with run.component("quantize", "f1", str(tmp_path)) as tracker:
        pass
    made = artifact(tmp_path, tracker.run_id)
    run.finished("quantize", made, reused=False)
    run.close("FINISHED")
    again = begin(config, client)
    again.finished("quantize", made, reused=True)
    again.close("FINISHED")
    (version,) = client.models["vim-fake-tokenizer"]
    assert version.source == f"runs:/{tracker.run_id}"
    assert version.tags["vim.digest"] == "e" * 64
    assert version.tags["vim.input.images"] == "d" * 64
    assert version.tags["vim.artifact"] == made.folder
    assert version.text == f"test_psnr_db 22.5; {made.folder}"
    retrained = replace(made, manifest=replace(made.manifest, digest="1" * 64))
    config.run.register = False
    off = begin(config, client)
    off.finished("quantize", retrained, reused=True)
    off.close("FINISHED")
    assert len(client.models["vim-fake-tokenizer"]) == 1
    config.run.register = True
    third = begin(config, client)
    third.finished("quantize", retrained, reused=True)
    third.close("FINISHED")
    assert [each.tags["vim.digest"][0] for each in client.models["vim-fake-tokenizer"]] == ["e", "1"]


def test_of_two_that_register_at_once_one_stays(tmp_path: Path, client: Client) -> None:
    made, create = artifact(tmp_path), client.create_model_version

    def raced(*arguments: Any) -> Any:
        create(*arguments)
        return create(*arguments)

    client.create_model_version = raced  # type: ignore[method-assign, assignment]
    models.register(client, "fake", made, ())
    (version,) = client.models["vim-fake-tokenizer"]
    assert (version.version, version.run_id, version.source) == ("1", None, made.folder)


def test_a_registry_that_fails_holds_nothing_up(tmp_path: Path, config: Any, client: Client) -> None:
    def broken(query: str) -> list[Any]:
        raise RuntimeError("no registry here")

    client.search_model_versions = broken  # type: ignore[method-assign]
    run = begin(config, client)
    with run.component("quantize", "f1", str(tmp_path)) as tracker:
        pass
    run.finished("quantize", artifact(tmp_path, tracker.run_id), reused=False)
    run.close("FINISHED")
    parent = client.runs[run.run_id]
    assert parent.info.status == "FINISHED"
    assert "test_psnr_db 22.5" in parent.data.tags["mlflow.note.content"]


def test_a_run_in_a_job_carries_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    assert describe.job_tag() == {}
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", '{"metadata": {"job_submission_id": "raysubmit_1"}}')
    assert describe.job_tag() == {"vim.job": "raysubmit_1"}
    monkeypatch.setenv("VIM_JOB", "vim-3fa2-1")
    assert describe.job_tag() == {"vim.job": "vim-3fa2-1"}


def test_the_report_is_linked_in_the_runs_description(tmp_path: Path, config: Any, client: Client) -> None:
    run = begin(config, client)
    run.finished("quantize", artifact(tmp_path, "elsewhere"), reused=True)
    run.report("gs://bucket/reports/fake/report.html")
    run.close("FINISHED")
    text = client.runs[run.run_id].data.tags["mlflow.note.content"]
    assert "console.cloud.google.com/storage/browser/bucket/reports/fake/report.html" in text
    assert "| quantize | reused | test_psnr_db 22.5 |" in text


def test_tracking_switched_off_touches_nothing(tmp_path: Path) -> None:
    run = tracking.open_run(PipelineConfig(run=RunConfig(root=str(tmp_path), tracking_uri="off")))
    with run.component("quantize", "f1", str(tmp_path)) as tracker:
        assert isinstance(tracker, OffTracker)
        assert tracker.metrics(0, {"loss": 1.0})
        assert tracker.last_step("loss") == -1
    run.close("FINISHED")
    assert list(tmp_path.iterdir()) == []
