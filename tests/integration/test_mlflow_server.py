"""A real MLflow server over HTTP: what it says of a training whose updates were skipped, also while that runs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from components.artifacts import execute
from components.artifacts.execute import Reporting
from components.tracking import tracker
from tests.support import mlflow_servers, tiny_artifacts
from tests.support.common import SilentProgress, eventually, train_here
from tests.support.tiny import quantize_config
from vim_core.config import PipelineConfig, RunConfig
from vim_core.storage import io
from vim_core.tasks.quantizer import QuantizerTask

BROKEN = (3, 5)
"""Steps with an image that is not a number."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server with a database of its own."""
    with mlflow_servers.server(tmp_path_factory.mktemp("mlflow")) as running:
        yield running.address


class Seen:
    """What the server says of a run."""

    def __init__(self, address: str, run_id: str) -> None:
        from mlflow import MlflowClient

        self.address, self.client, self.run_id = address, MlflowClient(address), run_id

    def counts(self) -> list[tuple[int, float]]:
        return mlflow_servers.history(self.address, self.run_id, "train/nonfinite_steps")

    def rows(self, folder: Path) -> list[dict[str, Any]]:
        if "nonfinite.jsonl" not in [item.path for item in self.client.list_artifacts(self.run_id)]:
            return []
        path = self.client.download_artifacts(self.run_id, "nonfinite.jsonl", str(folder))
        return [json.loads(line) for line in Path(path).read_text().splitlines()]


@pytest.mark.slow
def test_skipped_updates_are_on_the_server_while_the_training_runs_and_afterwards(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_here(monkeypatch)
    config = PipelineConfig(
        "broken",
        ["ingest", "quantize"],
        RunConfig(root=str(tmp_path / "root"), threads=1, device="cpu", tracking_uri=server, system_metrics=False),
        quantize=quantize_config(steps=8),
    )
    own, meanwhile = QuantizerTask.step, list[Any]()

    def breaking(self: QuantizerTask, step: int, batch: Any) -> Any:
        if step in BROKEN:
            batch["images"][0] = float("nan")
        if step == 5:
            seen = Seen(server, eventually(lambda: run_ids(server)))
            meanwhile.append((eventually(seen.counts), eventually(lambda: seen.rows(tmp_path))))
        return own(self, step, batch)

    monkeypatch.setattr(QuantizerTask, "step", breaking)
    run = tracker.open_run(config)
    services = Reporting(lambda name: SilentProgress(), run.component)
    artifact = execute.execute("quantize", config, services, cache={"ingest": tiny_artifacts.images(tmp_path)}).artifact
    run.finished("quantize", artifact, reused=False)
    run.close("FINISHED")

    ((counts, rows),) = meanwhile
    assert counts == [(3, 1.0)]
    assert [row["step"] for row in rows] == [3]
    seen = Seen(server, artifact.manifest.mlflow_run_id)
    assert seen.counts() == [(3, 1.0), (5, 2.0)]
    kept = [json.loads(line) for line in io.read_bytes(artifact.uri("nonfinite.jsonl")).splitlines()]
    assert seen.rows(tmp_path) == kept
    assert [row["step"] for row in kept] == list(BROKEN)
    assert all("l2" in row["nonfinite"] and len(row["samples"]) == 4 for row in kept)


def run_ids(server: str) -> str:
    """The run of the component, once there is one."""
    from mlflow import MlflowClient

    client = MlflowClient(server)
    experiment = client.get_experiment_by_name("broken")
    found = client.search_runs([experiment.experiment_id], "tags.`vim.component` = 'quantize'") if experiment else []
    return found[0].info.run_id if found else ""
