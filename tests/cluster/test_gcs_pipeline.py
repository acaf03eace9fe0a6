"""The whole `smoke` preset with a bucket as its root, through the real command: workers, Beam and report included."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from components.artifacts import store
from components.contract.api import Artifact
from tests.support.common import vimctl
from vim_core.storage import io

pytestmark = pytest.mark.cluster

SHORT = [f"{component}.steps=20" for component in ("classify", "selector", "quantize", "prior", "probe")]


def artifacts(root: str) -> dict[str, Artifact]:
    """Every committed artifact below the root, by component."""
    places = [path for path in io.find_files(root) if path.endswith("/manifest.json")]
    found = [(f"{root}/{path}", store.parse(io.read_bytes(f"{root}/{path}"), path)) for path in places]
    return {manifest.component: Artifact(uri.removesuffix("/manifest.json"), manifest) for uri, manifest in found}


def test_the_whole_pipeline_lives_in_a_bucket(gcs: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = f"{gcs}/smoke"
    # Dagster's history is a database on a disk; MLflow would want a server.
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    arguments = ["run", "--preset", "smoke", *SHORT, f"run.root={root}", "run.tracking_uri=off"]
    vimctl(*arguments, root=tmp_path / "unused", timeout=1200)
    made = artifacts(root)
    assert len(made) == 14
    for artifact in made.values():
        store.verify(artifact)
    assert not [path for path in io.find_files(root) if path.startswith(".work/")]
    results = json.loads(io.read_bytes(f"{root}/reports/smoke/results.json"))
    assert not any(results["reused"].values())
    assert io.exists(f"{root}/reports/smoke/report.html")
    curves = [json.loads(line) for line in io.read_bytes(made["prior"].uri("curves.jsonl")).splitlines()]
    assert [row["step"] for row in curves if "loss" in row["m"]] == [9, 19]
    assert not (tmp_path / "unused").exists()

    again = vimctl(*arguments, root=tmp_path / "unused")
    assert all(json.loads(io.read_bytes(f"{root}/reports/smoke/results.json"))["reused"].values()), again.text
    assert artifacts(root) == made
