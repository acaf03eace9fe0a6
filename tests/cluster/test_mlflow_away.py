"""A real MLflow server that hangs, dies and comes back while a training runs: nothing waits, is lost or doubled."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.common import Running, manifest, started, vimctl
from tests.support.mlflow_servers import Server, history, server
from tests.support.smoke import SmokeRun, branched, curve

pytestmark = pytest.mark.cluster

STEPS, LOG_EVERY = 2000, 5
HANGS, PAUSE, AWAY_S = 100, 200, 4.0
"""The server hangs from the first step on, for so many more and at least so many seconds; then it dies for as long."""
SETTINGS = [f"prior.steps={STEPS}", f"prior.log_every={LOG_EVERY}", "prior.checkpoint_every=500", "run.threads=1"]


@pytest.fixture
def root(smoke_run: SmokeRun, tmp_path: Path) -> Path:
    """Everything before the prior, finished."""
    return branched(smoke_run, tmp_path / "root", ["ingest", "quantize", "tokenize"])


@pytest.fixture
def mlflow(tmp_path: Path) -> Iterator[Server]:
    with server(tmp_path) as made:
        yield made


def spooled(root: Path) -> int:
    """The last step that the training wrote down, -1 for none."""
    for path in root.glob(".work/prior/*/spool.jsonl"):
        rows = [json.loads(line) for line in path.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
        return max((row["step"] for row in rows if "m" in row), default=-1)
    return -1


def run_id(root: Path) -> str:
    """The MLflow run that the training's work folder names."""
    return next(iter(root.glob(".work/prior/*/mlflow_run_id"))).read_text()


def reached(process: Running, root: Path, step: int) -> None:
    process.wait_for(lambda: spooled(root) >= step, 240)


def outlasted(process: Running, root: Path) -> int:
    """Wait until the training has gone on for a while, in steps and in seconds; gives the step it has come to."""
    end, before = time.monotonic() + AWAY_S, spooled(root)
    process.wait_for(lambda: time.monotonic() > end and spooled(root) >= before + PAUSE, 240)
    return spooled(root)


def delivered(process: Running, root: Path, address: str, step: int) -> None:
    """Wait, while the training runs, until the server has its figures up to this step."""
    run = run_id(root)

    def there() -> bool:
        time.sleep(0.5)
        return max((found for found, _ in history(address, run, "train/loss")), default=-1) >= step

    process.wait_for(there, 240)


def test_a_server_that_hangs_and_dies_costs_neither_a_step_nor_a_point(root: Path, mlflow: Server) -> None:
    words = ["run", "prior", "--preset", "smoke", *SETTINGS, f"run.tracking_uri={mlflow.address}"]
    with started(root, *words) as process:
        reached(process, root, HANGS)
        mlflow.stop()
        # The training goes on although the server takes every request and answers none.
        mark = outlasted(process, root)
        mlflow.go_on()
        delivered(process, root, mlflow.address, mark)
        mlflow.kill()
        outlasted(process, root)
        mlflow.start()
        assert process.process.wait(300) == 0, process.text[-4000:]
    # What came too late for that run is made up for by the next one, which has nothing to do.
    vimctl(*words, root=root)

    made = manifest(root, "prior")
    assert made["properties"]["resumed_from"] == 0, "no outage is a reason to start again"
    rows = curve(root, "prior")
    assert [row["step"] for row in rows] == list(range(LOG_EVERY - 1, STEPS, LOG_EVERY))
    for name in ("loss", "learning_rate"):
        expected = [(row["step"], row["m"][name]) for row in rows]
        assert history(mlflow.address, made["mlflow_run_id"], f"train/{name}") == expected
    check_run(mlflow.address, made)


def check_run(address: str, made: dict[str, Any]) -> None:
    """What else the server says of the training: ended, described, sampled, registered once."""
    from mlflow import MlflowClient

    client = MlflowClient(address)
    run = client.get_run(made["mlflow_run_id"])
    assert run.info.status == "FINISHED"
    assert run.data.tags["vim.digest"] == made["digest"]
    assert "Artifact: " in run.data.tags["mlflow.note.content"]
    samples = history(address, run.info.run_id, "system/node-0/cpu_percent")
    assert samples
    assert len({step for step, _ in samples}) == len(samples), "each sample is there once"
    (version,) = client.search_model_versions("name = 'vim-smoke-prior'")
    assert version.tags["vim.digest"] == made["digest"]
    assert version.tags["vim.input.codes"] == made["inputs"]["codes"]["digest"]
    assert version.run_id == run.info.run_id
