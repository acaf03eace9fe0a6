"""A real sweep on trained models: a point fails, the process is killed and goes on, MLflow has a run for each point."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from components.artifacts import store
from tests.conftest import SmokeRun
from tests.support.common import REPOSITORY, ray_cluster, started, vimctl
from vim_core.storage import io

pytestmark = pytest.mark.cluster

SWEEP = """\
preset: smoke
settings: {score.neighbours: 0, score.floor: false, score.reconstructed: false}
grid:
  sample.guidance: [1.0, 2.0]
  acceptance: [1.0, 0.5]
points:
- {sample.classes: ["no such digit"]}
parallel: 2
"""


@pytest.fixture
def copied(smoke_run: SmokeRun, tmp_path: Path) -> Path:
    """A root with the trained models of the session's smoke run; its samples and figures are not among them."""
    root = tmp_path / "root"
    for name in ("ingest", "classify", "selector", "statistics", "quantize", "tokenize", "reconstruct", "prior"):
        shutil.copytree(smoke_run.root / name, root / name)
    return root


def results(root: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((root / "sweeps" / "trial" / "results.json").read_text())
    return found


def plain(found: dict[str, Any]) -> dict[str, Any]:
    """What is the same however often the sweep was stopped."""
    points = [{k: v for k, v in p.items() if k not in ("seconds", "mlflow_run_id")} for p in found["points"]]
    return {"points": points} | {key: found[key] for key in ("groups", "counts", "axes")}


def killed(sweep: str, root: Path) -> None:
    """Start the sweep and kill it without a word once it has drawn images."""
    with started(root, "sweep", "run", sweep) as process:
        process.wait_for(lambda: bool(list(root.glob("sample/*/manifest.json"))))
        process.kill()


def test_a_killed_sweep_with_a_failing_point_goes_on(copied: Path, tmp_path: Path) -> None:
    sweep = tmp_path / "trial.yaml"
    sweep.write_text(SWEEP)
    killed(str(sweep), copied)
    ended = vimctl("sweep", "run", str(sweep), root=copied, check=False)
    assert ended.code == 1, ended.text
    assert "1 of 5 points failed" in ended.err
    found = results(copied)
    assert found["counts"] == {
        "points": 5, "done": 4, "failed": 1, "waiting": 0, "artifacts": {"sample": 2, "select": 2, "score": 2},
    }  # fmt: skip
    assert [point["status"] for point in found["points"]] == ["done"] * 4 + ["failed"]
    assert "no such digit" in found["points"][4]["reason"]
    # Four points came from two sets of candidates, each drawn once: what the killed attempt began is no third.
    made = [store.load(str(copied), "sample", path.parent.name) for path in copied.glob("sample/*/manifest.json")]
    assert len(made) == 2
    assert _finished(copied, found) == {"FINISHED": 4, "FAILED": 1}
    again = vimctl("sweep", "run", str(sweep), "run.tracking_uri=off", root=copied, check=False)
    assert again.code == 1
    assert plain(results(copied)) == plain(found)
    shown = vimctl("sweep", "show", "trial", root=copied)
    assert "no such digit" in shown.text
    assert "best" in shown.text


def _finished(root: Path, found: dict[str, Any]) -> dict[str, int]:
    """How the points' runs ended, after a look at the whole tree of runs: one parent, one child a point."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{root}/mlflow.db")
    experiment = client.get_experiment_by_name("smoke")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    (parent,) = [run for run in runs if run.data.tags["vim.kind"] == "sweep"]
    points = {run.info.run_id: run for run in runs if run.data.tags["vim.kind"] == "point"}
    assert parent.info.run_id == found["mlflow"]["run_id"]
    assert {run.data.tags["mlflow.parentRunId"] for run in points.values()} == {parent.info.run_id}
    assert set(points) == {point["mlflow_run_id"] for point in found["points"]}
    assert "sweep/sweep.html" in {item.path for item in client.list_artifacts(parent.info.run_id, "sweep")}
    for point in found["points"]:
        run = points[point["mlflow_run_id"]]
        assert {name: run.data.metrics[name] for name in point["figures"]} == {
            name: figure["value"] for name, figure in point["figures"].items()
        }
        assert all(len(client.get_metric_history(run.info.run_id, name)) == 1 for name in point["figures"])
    ends = [run.info.status for run in points.values()]
    return {status: ends.count(status) for status in set(ends)}


def test_points_run_on_a_ray_cluster(copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Its workers import this repository.
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    sweep = tmp_path / "trial.yaml"
    quick = "settings: {score.neighbours: 0, score.floor: false}"
    sweep.write_text(f"grid: {{sample.guidance: [1.0, 2.0]}}\n{quick}\nparallel: 2\n")
    with ray_cluster(2) as cluster:
        vimctl(
            "sweep", "run", str(sweep), "--preset", "smoke", f"run.ray_address={cluster.address}",
            "run.tracking_uri=off", root=copied,
        )  # fmt: skip
    found = results(copied)
    assert found["counts"]["done"] == 2
    assert len(io.list_names(str(copied / "sample"))) == 2
