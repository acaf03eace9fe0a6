"""RayJobs through the real client against a small API server in a process of its own: submit, state, log, stop."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipelines.jobs import kubernetes_api
from pipelines.jobs.api import FAILED, LOST, PENDING, RUNNING, STOPPED, SUCCEEDED, JobSpec, JobState
from pipelines.jobs.kubernetes import KubernetesBackend
from pipelines.jobs.manifests import JOB_LABEL, ROLE_LABEL, object_name
from pipelines.jobs.profile import Cluster, KubernetesSettings
from tests.support.common import answers, eventually, free_port, running
from tests.support.kubernetes_server import KUBECONFIG, TOKEN
from vim_core.errors import ConfigError, VimError

SPEC = JobSpec("run", "digits", "components: [ingest, quantize]\nrun: {root: gs://b/vim}\n")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    address = f"http://127.0.0.1:{(port := free_port())}"
    arguments = [sys.executable, "-m", "tests.support.kubernetes_server", str(port)]
    with running(arguments, tmp_path_factory.mktemp("kubernetes") / "server") as process:
        process.wait_for(lambda: answers(f"{address}/_ready"), 30)
        yield address


@pytest.fixture
def login(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "kubeconfig"
    path.write_text(KUBECONFIG.format(address=server, token=TOKEN))
    monkeypatch.setenv("KUBECONFIG", str(path))
    monkeypatch.setattr(kubernetes_api, "POLL_S", 0.05)


@pytest.fixture
def backend(login: None) -> KubernetesBackend:
    return backend_with()


@pytest.fixture
def spec_uri(tmp_path: Path) -> str:
    path = tmp_path / "spec.json"
    path.write_text(json.dumps(dataclasses.asdict(SPEC)))
    return str(path)


def backend_with(**settings: Any) -> KubernetesBackend:
    return KubernetesBackend(Cluster("k", "kubernetes", kubernetes=KubernetesSettings(image="vim:1", **settings)))


def state_of(backend: KubernetesBackend, job_id: str) -> JobState:
    state = backend.state(job_id)
    assert state is not None
    return state


def write(server: str, **order: Any) -> None:
    """Write what the operator or the kubelet would."""
    urllib.request.urlopen(f"{server}/_set", json.dumps(order).encode()).close()


def set_job(server: str, job_id: str, **fields: Any) -> None:
    write(server, job=object_name(job_id), status=fields)


def set_pod(server: str, job_id: str, name: str, phase: str = "Running", **more: Any) -> None:
    labels = {JOB_LABEL: object_name(job_id), **more.pop("labels", {ROLE_LABEL: "submitter"})}
    body = {
        "kind": "Pod",
        "metadata": {"name": name, "labels": labels},
        "spec": {"nodeName": more.pop("node", ""), "containers": []},
        "status": {"phase": phase, **more},
    }
    write(server, pod=body)


def test_a_job_is_made_once_and_the_second_submitter_attaches(
    backend: KubernetesBackend, server: str, spec_uri: str
) -> None:
    assert backend.state("vim-once") is None
    assert backend.submit("vim-once", spec_uri)
    assert not backend_with().submit("vim-once", spec_uri)
    state = state_of(backend, "vim-once")
    assert (state.status, state.message) == (PENDING, "the operator has not seen it yet")
    assert backend.dashboard("vim-once") == ""


def test_states_follow_the_object_and_its_pods(backend: KubernetesBackend, server: str, spec_uri: str) -> None:
    backend.submit("vim-states", spec_uri)

    def seen() -> tuple[str, str]:
        state = state_of(backend, "vim-states")
        return state.status, state.message

    set_job(server, "vim-states", jobDeploymentStatus="Suspended")
    assert seen() == (PENDING, "waits in the queue vim for its place")
    set_job(server, "vim-states", jobDeploymentStatus="Initializing")
    condition = {"type": "PodScheduled", "status": "False", "message": "0/3 nodes are available: google.com/tpu"}
    set_pod(server, "vim-states", "worker-0", "Pending", labels={ROLE_LABEL: "ray"}, conditions=[condition])
    assert seen() == (PENDING, "worker-0 has no node yet: 0/3 nodes are available: google.com/tpu")
    set_pod(server, "vim-states", "head-0", labels={ROLE_LABEL: "ray", "ray.io/node-type": "head"}, node="node-7")
    set_job(server, "vim-states", jobDeploymentStatus="Running", jobStatus="RUNNING", startTime="2026-01-01T00:00:10Z")
    state = state_of(backend, "vim-states")
    assert (state.status, state.node, state.started, state.ended) == (RUNNING, "node-7", 1767225610.0, None)
    set_job(server, "vim-states", jobDeploymentStatus="Complete", jobStatus="SUCCEEDED", endTime="2026-01-01T00:00:20Z")
    assert backend.state("vim-states") == dataclasses.replace(
        state, status=SUCCEEDED, message="", started=None, ended=1767225620.0
    )
    set_job(server, "vim-states", jobDeploymentStatus="Complete", jobStatus="")
    assert state_of(backend, "vim-states").status == LOST


OWN = "Job entrypoint command failed with exit code 2, last available logs: vimctl: prior.steps=0: must be positive"


@pytest.mark.parametrize(
    ("reason", "message", "expected"),
    [
        ("AppFailed", OWN, FAILED),
        ("AppFailed", "Job entrypoint command failed with exit code 137", LOST),
        ("AppFailed", "Job supervisor actor died because its node died", LOST),
        ("ValidationFailed", "name too long", FAILED),
        ("SubmissionFailed", "the submitter's pod was evicted", LOST),
    ],
)
def test_own_errors_and_lost_jobs_are_told_apart(
    backend: KubernetesBackend, server: str, spec_uri: str, reason: str, message: str, expected: str
) -> None:
    job_id = object_name(f"vim-{reason}-{message}")
    assert backend.submit(job_id, spec_uri)
    set_job(server, job_id, jobDeploymentStatus="Failed", jobStatus="FAILED", reason=reason, message=message)
    state = state_of(backend, job_id)
    assert (state.job_id, state.status) == (job_id, expected)
    assert state.message == f"{reason}: {message}"


@pytest.mark.parametrize(
    ("job_id", "pod_status"),
    [
        ("vim-evicted", {"reason": "Evicted"}),
        ("vim-taken", {"conditions": [{"type": "DisruptionTarget", "status": "True", "reason": "Preemption"}]}),
    ],
)
def test_an_error_after_a_node_was_taken_away_is_no_error_of_the_user(
    backend: KubernetesBackend, server: str, spec_uri: str, job_id: str, pod_status: dict[str, Any]
) -> None:
    backend.submit(job_id, spec_uri)
    set_pod(server, job_id, f"{job_id}-w", "Failed", labels={ROLE_LABEL: "ray"}, node="node-3", **pod_status)
    set_job(server, job_id, jobDeploymentStatus="Failed", jobStatus="FAILED", reason="AppFailed", message=OWN)
    state = state_of(backend, job_id)
    assert state.status == LOST
    assert f"{job_id}-w on node-3" in state.message


def test_stopping_is_remembered_until_the_job_is_sent_again(
    backend: KubernetesBackend, server: str, spec_uri: str
) -> None:
    backend.submit("VIM stop/1", spec_uri)
    backend.stop("VIM stop/1")
    state = state_of(backend_with(), "VIM stop/1")
    assert (state.job_id, state.status) == ("VIM stop/1", STOPPED)
    assert [each.status for each in backend.jobs() if each.job_id == "VIM stop/1"] == [STOPPED]
    assert backend.submit("VIM stop/1", spec_uri)
    assert backend.jobs()[0] == backend.state("VIM stop/1"), "the newest is first"
    assert backend.jobs()[0].status == PENDING
    backend.stop("vim-never-there")
    assert backend.state("vim-never-there") is None


def test_the_log_is_followed_across_a_broken_connection_and_a_new_pod(
    backend: KubernetesBackend, server: str, spec_uri: str
) -> None:
    backend.submit("vim-log", spec_uri)
    lines: list[str] = []

    def read() -> None:
        for line in backend.follow("vim-log"):
            lines.append(line)

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    set_pod(server, "vim-log", "log-a")
    write(server, log={"log-a": ["one", "two"]})
    eventually(lambda: lines == ["one", "two"])
    write(server, cut=["log-a"])
    write(server, log={"log-a": ["three"]})
    eventually(lambda: lines[2:] == ["three"])
    set_pod(server, "vim-log", "log-a", "Failed")
    set_pod(server, "vim-log", "log-b")
    write(server, log={"log-b": ["one", "four"]})
    eventually(lambda: "four" in lines)
    write(server, log={"log-b": ["last"]})
    set_job(server, "vim-log", jobDeploymentStatus="Complete", jobStatus="SUCCEEDED")
    set_pod(server, "vim-log", "log-b", "Succeeded")
    thread.join(20)
    assert not thread.is_alive()
    assert [line for line in lines if not line.startswith("--")] == ["one", "two", "three", "one", "four", "last"]
    assert "replaced by log-b" in lines[3]


def test_the_dashboard_is_behind_the_gateway(login: None, server: str, spec_uri: str) -> None:
    backend = backend_with(domain="vim.example.org")
    assert backend.dashboard() == "https://ray.vim.example.org/"
    backend.submit("vim-dash", spec_uri)
    assert backend.dashboard("vim-dash") == ""
    set_job(server, "vim-dash", jobDeploymentStatus="Running", rayClusterName="vim-dash-abcde")
    assert backend.dashboard("vim-dash") == "https://ray.vim.example.org/vim-dash-abcde-head-svc/"


def test_faults_are_named(login: None, spec_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(VimError, match="no namespace elsewhere"):
        backend_with(namespace="elsewhere").submit("vim-x", spec_uri)
    with pytest.raises(ConfigError, match=r"kubernetes\.context='nowhere'.*get-contexts"):
        backend_with(context="nowhere").state("vim-x")
    with pytest.raises(ConfigError, match=r"kubernetes\.image=''"):
        KubernetesBackend(Cluster("k", "kubernetes"))
    config = Path(os.environ["KUBECONFIG"])
    config.write_text(config.read_text().replace(TOKEN, "wrong"))
    with pytest.raises(VimError, match=r"refuses \(401 .*vim-submitter"):
        backend_with().state("vim-x")
    config.write_text(KUBECONFIG.format(address=f"http://127.0.0.1:{free_port()}", token=TOKEN))
    with pytest.raises(VimError, match="does not answer"):
        backend_with().state("vim-x")
