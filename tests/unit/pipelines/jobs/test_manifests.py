"""RayJobs from profiles: names, shapes of slices, what is asked for; every object fits its schema."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from pipelines.jobs import manifests
from pipelines.jobs.api import JobSpec
from pipelines.jobs.profile import Cluster, KubernetesSettings
from tests.support.kubernetes_objects import pod_templates, validate
from vim_core.errors import ConfigError

SETTINGS = "components: [ingest, quantize, tokenize, prior, sample]\nrun: {threads: 4}\n"
PLACES: dict[str, dict[str, Any]] = {
    "quantize": {"device": "xla", "topology": "2x2x4", "workers": 4},
    "prior": {"device": "xla", "topology": "4x4x4", "workers": 32},
    "sample": {"device": "xla", "topology": "2X2X4", "workers": 8},
}


def cluster(**settings: Any) -> Cluster:
    return Cluster(
        "k", "kubernetes", env={"B": "2", "A": "1"}, components=PLACES,
        kubernetes=KubernetesSettings(**{"image": "vim:1", **settings}),
    )  # fmt: skip


def job(profile: Cluster | None = None, **spec: Any) -> dict[str, Any]:
    fields = {"command": "run", "preset": "p", "settings": SETTINGS, **spec}
    return manifests.ray_job(profile or cluster(), "vim-run-1", "gs://b/.jobs/a b.json", JobSpec(**fields))


def groups(ray_job: dict[str, Any]) -> dict[str, tuple[int, int]]:
    """Replicas and hosts of each group of workers."""
    specs = ray_job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    return {group["groupName"]: (group["replicas"], group["numOfHosts"]) for group in specs}


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({}, {"tpu-2x2x4": (2, 4), "tpu-4x4x4": (2, 16)}),
        ({"target": "prior", "only": True}, {"tpu-4x4x4": (2, 16)}),
        ({"target": "tokenize"}, {"tpu-2x2x4": (1, 4)}),
        ({"start": "prior"}, {"tpu-2x2x4": (2, 4), "tpu-4x4x4": (2, 16)}),
        ({"start": "quantize", "target": "tokenize"}, {"tpu-2x2x4": (1, 4)}),
        ({"target": "ingest"}, {}),
        ({"command": "sweep", "target": ""}, {"tpu-2x2x4": (2, 4), "tpu-4x4x4": (2, 16)}),
        ({"places": {"prior": {"device": "cpu", "topology": "", "workers": 3}}}, {"tpu-2x2x4": (2, 4), "cpu": (3, 1)}),
    ],
)
def test_slices_suffice_for_each_component_that_runs(
    spec: dict[str, Any], expected: dict[str, tuple[int, int]]
) -> None:
    assert groups(job(**spec)) == expected


def test_a_tpu_host_asks_for_all_its_chips_on_nodes_of_its_topology() -> None:
    (group,) = job(target="tokenize")["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    spec = group["template"]["spec"]
    (container,) = spec["containers"]
    assert container["resources"]["requests"] == container["resources"]["limits"]
    assert container["resources"]["limits"]["google.com/tpu"] == "4"
    assert spec["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": "tpu-v4-podslice",
        "cloud.google.com/gke-tpu-topology": "2x2x4",
    }
    assert group["minReplicas"] == group["replicas"] == group["maxReplicas"]


def test_the_job_waits_in_the_queue_cleans_up_and_has_a_token() -> None:
    ray_job = job(cluster(queue="q", ttl_s=5, service_account="sa", tpu_image="tpu:1"))
    spec = ray_job["spec"]
    assert ray_job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "q"
    assert (spec["shutdownAfterJobFinishes"], spec["ttlSecondsAfterFinished"], spec["backoffLimit"]) == (True, 5, 0)
    assert spec["entrypoint"] == "python -m pipelines.cli job 'gs://b/.jobs/a b.json'"
    assert spec["rayClusterSpec"]["authOptions"] == {"mode": "token"}
    pods = pod_templates(ray_job)
    assert {pod["spec"]["serviceAccountName"] for pod in pods} == {"sa"}
    assert [pod["spec"]["containers"][0]["image"] for pod in pods] == ["vim:1", "vim:1", "tpu:1", "tpu:1"]
    head = spec["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"][0]
    assert head["env"] == [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}]


@pytest.mark.parametrize("target", ["", "ingest"])
def test_a_job_fits_the_schema_of_kuberay(target: str, test_data: Path) -> None:
    validate(job(target=target), test_data / "crds")


@pytest.mark.parametrize(
    "spoil",
    [
        lambda job: job["spec"]["rayClusterSpec"]["headGroupSpec"].pop("template"),
        lambda job: job["metadata"].update(label="a"),
        lambda job: pod_templates(job)[1]["spec"]["containers"][0].update(images="x"),
    ],
)
def test_the_schemas_find_mistakes(spoil: Any, test_data: Path) -> None:
    spoiled = job()
    spoil(spoiled)
    with pytest.raises(jsonschema.ValidationError):
        validate(spoiled, test_data / "crds")


def test_every_id_gets_a_name_of_its_own_that_kubernetes_takes() -> None:
    ids = ["vim-run-0a1b", "Vim_Run/1", "9lives", "a" * 60, "a" * 61, "ünter", "-", "", "Vim-1", "vim-1", "vim_1"]
    names = [manifests.object_name(job_id) for job_id in ids]
    assert names[0] == "vim-run-0a1b"
    assert len(set(names)) == len(ids)
    for name in names:
        assert re.fullmatch(r"[a-z]([a-z0-9-]*[a-z0-9])?", name), name
        assert len(name) <= manifests.MAX_NAME_LENGTH


@pytest.mark.parametrize(
    ("kubernetes", "run", "named"),
    [
        ({"image": ""}, {}, r"kubernetes\.image=''"),
        ({"accelerator": ""}, {}, r"kubernetes\.accelerator=''.*2x2x4"),
        ({}, {"quantize": {"device": "cuda", "topology": ""}}, r"components\.quantize\.device='cuda'"),
        ({}, {"quantize": {"device": "xla", "topology": "2x2x4", "workers": 3}}, r"run\.workers=3"),
        ({}, {"quantize": {"device": "xla", "topology": "3x3x3", "workers": 1}}, r"run\.topology='3x3x3'"),
    ],
)
def test_what_cannot_be_placed_is_named(kubernetes: dict[str, Any], run: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        job(cluster(**kubernetes), places=run)


def test_more_shapes_than_kueue_admits_are_refused() -> None:
    names = ["ingest", "classify", "statistics", "quantize", "tokenize", "reconstruct", "prior", "sample"]
    sizes = ["2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8"]
    places = {
        name: {"device": "xla", "topology": size, "workers": 2**i}
        for i, (name, size) in enumerate(zip(names, sizes, strict=True))
    }
    with pytest.raises(ConfigError, match="8 shapes"):
        job(settings=f"components: {names}\n", places=places)
