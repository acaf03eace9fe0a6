"""Training on a Ray cluster of two nodes, and what happens when one of them is lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.common import manifest, ray_cluster, started, vimctl
from tests.support.smoke import SmokeRun, branched

pytestmark = pytest.mark.cluster

CORES = 2
SETTINGS = [
    "quantize.steps=60",
    "quantize.checkpoint_every=5",
    "quantize.log_every=5",
    "run.workers=2",
    f"run.threads={CORES}",
    "run.tracking_uri=off",
]
"""Each worker asks for all the cores of a node, so two workers need two nodes."""


def quantize(address: str) -> list[str]:
    """Arguments of `vimctl` that train the tokenizer on a cluster."""
    return ["run", "quantize", "--preset", "smoke", f"run.ray_address={address}", *SETTINGS]


def test_two_nodes_and_a_lost_one_end_with_the_same_weights(smoke_run: SmokeRun, tmp_path: Path) -> None:
    calm = branched(smoke_run, tmp_path / "calm", ["ingest"])
    rough = branched(smoke_run, tmp_path / "rough", ["ingest"])
    with ray_cluster(CORES) as cluster:
        second = cluster.add_node(num_cpus=CORES)
        vimctl(*quantize(cluster.address), root=calm)
        assert manifest(calm, "quantize")["properties"]["trained_by"] == "Ray Train, 2 worker process(es)"
        with started(rough, *quantize(cluster.address)) as process:
            process.wait_for(lambda: bool(list(rough.glob(".work/quantize/**/step-*/index.json"))))
            cluster.remove_node(second, allow_graceful=False)
            cluster.add_node(num_cpus=CORES)
            assert process.process.wait(timeout=600) == 0, process.text[-4000:]
    assert manifest(rough, "quantize")["properties"]["resumed_from"] > 0
    assert manifest(rough, "quantize")["digest"] == manifest(calm, "quantize")["digest"]


def test_a_cluster_that_is_not_there_is_named(smoke_run: SmokeRun, tmp_path: Path) -> None:
    root = branched(smoke_run, tmp_path / "root", ["ingest"])
    finished = vimctl(*quantize("127.0.0.1:1"), root=root, check=False, timeout=180)
    assert finished.code != 0
    assert "Traceback" not in finished.text
    assert "run.ray_address='127.0.0.1:1'" in finished.text
