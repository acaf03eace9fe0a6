"""A Ray cluster by what its dashboard answers; a real one is looked at in tests/cluster."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from pipelines.doctor import ray_cluster
from pipelines.doctor.checks import FAIL, OK, WARN, Result, Target
from pipelines.jobs.profile import Cluster
from tests.support.common import free_port
from tests.support.http_servers import answering
from vim_core.config import PipelineConfig, RunConfig

TOKEN = "correct"
SLICE = {"ray.io/tpu-slice-name": "a", "ray.io/tpu-topology": "2x2x1", "ray.io/tpu-pod-type": "v4-8"}


def node(cpus: float = 2, labels: Mapping[str, str] | None = None, state: str = "ALIVE", **more: float) -> Any:
    resources = {"CPU": cpus, **{name.replace("_", "-"): count for name, count in more.items()}}
    return {"node_ip": "10.0.0.1", "state": state, "resources_total": resources, "labels": dict(labels or {})}


def dashboard(nodes: list[Any], token: str = TOKEN, version: str = "", job: Any = None) -> Any:
    version = version or metadata.version("ray")

    def reply(method: str, path: str, headers: dict[str, str]) -> Any:
        shown = headers.get("Authorization", "")
        if token and not shown:
            return (401, "Unauthorized: Missing authentication token")
        if token and shown != f"Bearer {token}":
            return (403, "Forbidden: Invalid authentication token")
        if path == "/api/version":
            return (200, {"ray_version": version})
        if path.startswith("/api/jobs"):
            return (200, job if method == "GET" else {})
        return (200, {"data": {"result": {"result": nodes}}})

    return answering(reply)


def token_file(folder: Path, text: str = TOKEN) -> str:
    path = folder / "token"
    path.write_text(text + "\n")
    path.chmod(0o600)
    return str(path)


def check(address: str, token: str = "", names: Any = ("prior",), **more: Any) -> dict[str, Result]:
    profile = Cluster(name="near", address=address, token_file=token, **more)
    target = Target(PipelineConfig("fake", list(names), RunConfig(threads=1)), profile)
    return {each.check: each for each in ray_cluster.check_cluster(target)}


def failures(found: Mapping[str, Result]) -> list[str]:
    return [check for check, each in found.items() if each.status == FAIL]


def test_a_cluster_that_is_well(tmp_path: Path) -> None:
    with dashboard([node(), node(), node(state="DEAD")]) as address:
        found = check(address, token_file(tmp_path))
    assert {each.status for each in found.values()} == {OK}
    assert found["nodes"].found == "2 alive with 4 CPUs"


def test_a_wrong_address() -> None:
    found = check(f"http://127.0.0.1:{free_port()}")
    assert "no answer at http://127.0.0.1" in found["cluster"].found
    with answering(lambda method, path, headers: (404, "<html>")) as address:
        assert "no Ray server answers there (status 404)" in check(address)["cluster"].found
    assert failures(check("")) == ["cluster"]


def test_no_token_a_missing_file_and_a_wrong_token_are_told_apart(tmp_path: Path) -> None:
    with dashboard([node()]) as address:
        assert "names none" in check(address)["token"].found
        assert "cannot be read: No such file" in check(address, str(tmp_path / "none"))["token"].found
        wrong = check(address, token_file(tmp_path, "wrong"))
        assert "a token that" in wrong["token"].found
        assert "wrong" not in str(wrong), "tokens are not printed"
        (tmp_path / "token").write_text("")
        assert "is empty" in check(address, str(tmp_path / "token"))["token"].found


def test_a_token_that_others_may_read_and_no_token_are_doubtful(tmp_path: Path) -> None:
    path = token_file(tmp_path)
    Path(path).chmod(0o644)
    with dashboard([node()]) as address:
        assert check(address, path)["token"].status == WARN
    with dashboard([node()], token="", version="2.9.0") as address:
        found = check(address)
    assert found["cluster"].status == WARN
    assert failures(found) == ["Ray"]
    assert "2.9.0 on the cluster" in found["Ray"].found


def test_too_little_room_for_a_trainings_workers() -> None:
    with dashboard([node(), node(3)], token="") as address:
        assert failures(check(address, run={"workers": 5})) == []
        found = check(address, components={"prior": {"workers": 3, "threads": 2}})
        assert found["resources"].found == "prior wants 3 workers with 2 CPU each, and 2 fit"
        assert failures(check(address, run={"device": "cuda"})) == ["resources"]


def hosts(topology: str, count: int, name: str = "a", **labels: str) -> list[Any]:
    pod = {"2x2x1": "v4-8", "2x2x2": "v4-16"}[topology]
    own = {
        **SLICE,
        "ray.io/tpu-slice-name": name,
        "ray.io/tpu-topology": topology,
        "ray.io/tpu-pod-type": pod,
        **labels,
    }
    made = [node(labels={**own, "ray.io/tpu-worker-id": str(each)}, TPU=4) for each in range(count)]
    made[0]["resources_total"][f"TPU-{pod}-head"] = 1
    return made


def topology(nodes: list[Any], **run: Any) -> dict[str, Result]:
    with dashboard(nodes, token="") as address:
        return check(address, run={"device": "xla", **run})


def test_a_topology_that_is_there() -> None:
    found = topology([node(), *hosts("2x2x2", 2)], topology="2x2x2", workers=2)
    assert failures(found) == []
    assert "1 x 2x2x2 (v4-16) is there" in found["topology"].found


@pytest.mark.parametrize(
    ("nodes", "wanted", "said"),
    [
        (hosts("2x2x1", 1), "1 x 2x2x2 (v4-16, 2 hosts)", "the cluster has 1 x 2x2x1"),
        ([*hosts("2x2x2", 1), *hosts("2x2x2", 1, "b")], "1 x 2x2x2", "the cluster has no whole slice"),
        ([], "1 x 2x2x2", "the cluster has no whole slice"),
        (hosts("2x2x1", 1), "2 x 2x2x1", "the cluster has 1 x 2x2x1"),
    ],
)
def test_a_topology_that_is_not_there(nodes: list[Any], wanted: str, said: str) -> None:
    found = topology([node(), *nodes], topology=wanted.split()[2], workers=2)
    assert f"wants {wanted}" in found["topology"].found
    assert said in found["topology"].found


def test_labels_that_the_webhook_did_not_make_possible() -> None:
    bare = node(TPU=4)
    found = topology([bare], topology="2x2x1")
    assert "1 of 1 TPU nodes lack labels" in found["topology labels"].found
    assert "ray.io/tpu-slice-name" in found["topology labels"].found
    assert "webhook" in found["topology labels"].advice
    assert "webhook" in found["topology"].advice


def test_a_topology_that_does_not_exist_or_is_not_filled() -> None:
    assert "no such slice" in topology([node()], topology="3x3x3")["topology"].found
    assert "take a multiple of 2" in topology([node()], topology="2x2x2", workers=1)["topology"].found


def test_a_small_job_says_whether_the_clusters_python_has_vim() -> None:
    for status, wanted in (("SUCCEEDED", OK), ("FAILED", FAIL)):
        job = {"status": status, "message": "ModuleNotFoundError: No module named 'pipelines'"}
        with dashboard([node()], token="", job=job) as address:
            target = Target(PipelineConfig(), Cluster("near", address=address, python="python3"), try_job=True)
            found = {each.check: each for each in ray_cluster.check_cluster(target)}
        assert found["job"].status == wanted
    assert "No module named 'pipelines'" in found["job"].found


def test_an_address_to_join_from_here() -> None:
    def result(address: str) -> Result:
        return ray_cluster.check_address(Target(PipelineConfig(run=RunConfig(ray_address=address))))[0]

    assert result(f"127.0.0.1:{free_port()}").status == FAIL
    assert result("auto").status == OK
    with answering(lambda method, path, headers: (200, "")) as address:
        assert result(address.removeprefix("http://")).status == OK
