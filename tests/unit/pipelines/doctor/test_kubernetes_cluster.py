"""What is told of a Kubernetes profile without a cluster, and from an API's answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipelines.doctor import kubernetes_cluster
from pipelines.doctor.checks import FAIL, OK, Result, Target
from pipelines.jobs.profile import Cluster, KubernetesSettings
from tests.support.common import free_port
from tests.support.http_servers import answering
from tests.support.kubernetes_server import KUBECONFIG
from vim_core.config import PipelineConfig, RunConfig


def target(components: Any = None, **place: Any) -> Target:
    filled = KubernetesSettings(**{"image": "vim:1", **place})
    profile = Cluster(
        name="pods", kind="kubernetes", root="gs://bucket/vim", components=components or {}, kubernetes=filled
    )
    return Target(PipelineConfig("fake", ["quantize"], RunConfig(tracking_uri="off")), profile)


def by_check(found: list[Result]) -> dict[str, Result]:
    return {each.check: each for each in found}


def test_what_is_missing_in_a_profile() -> None:
    (whole,) = kubernetes_cluster.check_profile(target({"quantize": {"device": "xla", "topology": "2x2x1"}}))
    assert whole.status == OK
    place = {"device": "xla", "topology": "2x2x4", "workers": 1}
    found = by_check(kubernetes_cluster.check_profile(target({"quantize": place}, image="", queue="")))
    assert set(found) == {"kubernetes.image", "kubernetes queue", "topology"}
    assert "take a multiple of 4" in found["topology"].found
    place["workers"] = 4
    found = by_check(kubernetes_cluster.check_profile(target({"quantize": place}, accelerator="")))
    assert "asks for 2x2x4" in found["kubernetes.accelerator"].found


def use_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    path = tmp_path / "kubeconfig"
    path.write_text(KUBECONFIG.format(address=address, token="none"))
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(path))


def test_no_cluster_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("kubernetes")
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "none"))
    (found,) = kubernetes_cluster.check_api(target())
    assert "get-credentials" in found.advice
    use_cluster(tmp_path, monkeypatch, f"http://127.0.0.1:{free_port()}")
    (found,) = kubernetes_cluster.check_api(target())
    assert (found.status, "refused" in found.found) == (FAIL, True)


def test_what_the_api_has_and_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("kubernetes")

    def reply(method: str, path: str, headers: dict[str, str]) -> Any:
        if path == "/version/":
            plain = ("major", "minor", "gitCommit", "gitTreeState", "buildDate", "goVersion", "compiler", "platform")
            return (200, {"gitVersion": "v1.33.1", **dict.fromkeys(plain, "1")})
        if "rayjobs" in path:
            return (404, {"message": "the server could not find the requested resource"})
        if "localqueues" in path:
            return (403, {"message": "forbidden"})
        return (200, {"metadata": {"name": "vim"}})

    with answering(reply) as address:
        use_cluster(tmp_path, monkeypatch, address)
        found = by_check(kubernetes_cluster.check_api(target()))
    assert found["kubernetes API"].found == "version v1.33.1"
    assert found["namespace"].status == found["service account"].status == OK
    assert found["KubeRay"].advice == "install the KubeRay operator"
    assert "may not read it (403)" in found["queue"].found
