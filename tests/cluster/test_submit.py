"""A local Ray cluster of three nodes: jobs that fail, are stopped, lose a node or their submitter; a head that dies."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from pipelines.jobs import local_cluster, profile, submission
from pipelines.jobs.api import FAILED, RUNNING, STOPPED, SUCCEEDED, JobState
from tests.conftest import SmokeRun
from tests.integration import test_readme
from tests.support.common import eventually, free_port, manifest, started, vimctl

pytestmark = pytest.mark.cluster

OFTEN = ["quantize.checkpoint_every=5", "prior.checkpoint_every=5"]
"""Where work is saved changes no result, and a kill lands between the first and the last step."""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[local_cluster.LocalCluster]:
    """What `vimctl cluster up --nodes 3` started: the head coordinates, trainings run on the two workers."""
    state = tmp_path_factory.mktemp("state")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VIM_STATE", str(state))
        (state / "home").mkdir()
        patch.setenv("HOME", str(state / "home"))  # other tests' Ray may have left a token in this session's
        up = vimctl("cluster", "up", "--nodes", "3", "--port", str(free_port()), root=state / "root")
        try:
            record = local_cluster.read()
            assert record is not None, up.text
            yield record
        finally:
            vimctl("cluster", "down", root=state / "root")


def jobs() -> list[JobState]:
    """All jobs of the cluster, newest first."""
    return submission.backend(profile.load("local")).jobs()


def family(pid: int) -> list[psutil.Process]:
    """A process and all it started."""
    process = psutil.Process(pid)
    return [process, *process.children(recursive=True)]


def kill(pid: int) -> None:
    """SIGKILL to all processes of a node at once, as when its machine goes."""
    for process in family(pid):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def trains(pid: int) -> bool:
    """True if a training's worker runs on this node."""
    for process in family(pid):
        with contextlib.suppress(psutil.NoSuchProcess):
            if "RayTrainWorker" in " ".join(process.cmdline()):
                return True
    return False


def listening(pid: int) -> set[str]:
    """The addresses at which the processes of a node listen."""
    found: set[str] = set()
    for process in family(pid):
        with contextlib.suppress(psutil.NoSuchProcess):
            opened = [each for each in process.net_connections("tcp") if each.status == psutil.CONN_LISTEN]
            found |= {each.laddr.ip.removeprefix("::ffff:") for each in opened}
    return found


def saved(root: Path, component: str) -> bool:
    """True if a checkpoint of a component lies in its work folder."""
    return bool(list(root.glob(f".work/{component}/**/step-*/index.json")))


def test_the_cluster_has_a_token_of_its_own_and_keeps_to_loopback(
    cluster: local_cluster.LocalCluster, tmp_path: Path
) -> None:
    assert local_cluster.count_nodes(cluster) == 3
    token = Path(cluster.token_file)
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    assert not Path(os.environ["HOME"], ".ray", "auth_token").exists()
    assert {address for node in cluster.nodes for address in listening(node.pid)} == {"127.0.0.1"}
    again = vimctl("cluster", "up", root=tmp_path, check=False)
    assert again.code == 2
    assert f"3 of 3 nodes at {cluster.address}" in again.text
    stranger = tmp_path / "stranger.yaml"
    (tmp_path / "token").write_text("0" * 64)
    stranger.write_text(f"address: {cluster.address}\ntoken_file: {tmp_path / 'token'}\nroot: {tmp_path}\n")
    refused = vimctl("logs", "--cluster", str(stranger), root=tmp_path, check=False)
    assert refused.code == 1
    assert "takes no token from" in refused.text
    assert token.read_text() not in refused.text


def test_a_users_error_is_shown_and_the_job_not_sent_again(cluster: local_cluster.LocalCluster, tmp_path: Path) -> None:
    words = ["submit", "ingest", "--preset", "smoke", "ingest.source=/nowhere/at/all"]
    finished = vimctl(*words, root=tmp_path / "root", check=False)
    assert finished.code == 1, finished.text
    failed = jobs()[0]
    assert failed.status == FAILED
    assert f"vimctl: {failed.job_id} failed on 127.0.0.1: exit status" in finished.err
    assert "/nowhere/at/all" in finished.err
    assert "-a2" not in finished.text
    log = vimctl("logs", root=tmp_path / "root").text
    assert "/nowhere/at/all" in log
    assert Path(cluster.token_file).read_text() not in log


def test_a_job_that_is_cancelled_gives_back_what_it_held(cluster: local_cluster.LocalCluster, tmp_path: Path) -> None:
    root = tmp_path / "root"
    sent = vimctl("submit", "ingest", "--preset", "smoke", "--detach", root=root)
    assert "follow it: vimctl logs -f vim-smoke-" in sent.text
    (newest, *_) = jobs()
    assert newest.status in ("pending", RUNNING)
    cancelled = vimctl("cancel", newest.job_id, root=root)
    assert "is stopped" in cancelled.text
    assert jobs()[0].status == STOPPED


def test_a_lost_worker_and_a_lost_submitter_change_nothing(
    smoke_run: SmokeRun, cluster: local_cluster.LocalCluster, tmp_path: Path
) -> None:
    root, before = tmp_path / "root", len(jobs())
    words = ["submit", "--preset", "smoke", "--cluster", "local", *OFTEN]
    with started(root, *words) as first:
        first.wait_for(lambda: saved(root, "quantize"))
        (holder,) = [node for node in cluster.nodes[1:] if trains(node.pid)]
        kill(holder.pid)
        first.wait_for(lambda: saved(root, "prior"))
        standing = vimctl("status", "--preset", "smoke", root=root).text
        first.kill()
    assert "prior" in standing, standing
    second = vimctl(*words, root=root)
    (job, *_) = jobs()
    assert f"{job.job_id} is running already; attaching to it" in second.text
    assert f"{job.job_id} succeeded: report {root / 'reports' / 'smoke' / 'report.html'}" in second.text

    assert (job.status, len(jobs())) == (SUCCEEDED, before + 1), "one job did it"
    assert local_cluster.count_nodes(cluster) == 2
    assert manifest(root, "quantize")["properties"]["resumed_from"] > 0, "the kill hit the training"
    for name, calm in smoke_run.manifests.items():
        if name != "report":  # it says when and how long
            assert manifest(root, name)["digest"] == calm["digest"], name
        assert len(list(root.glob(f"{name}/*/data-*"))) == 1, f"{name} was begun twice"
    third = vimctl(*words, root=root)
    assert "finished already, no job is sent" in third.text
    for line in test_readme.on_clusters():
        if not line.startswith("cluster "):  # the fixture's
            assert vimctl(*test_readme.concrete(line, root), root=root).text.strip(), line
    assert len(jobs()) == before + 1


def test_after_its_head_died_the_cluster_comes_up_again(cluster: local_cluster.LocalCluster, tmp_path: Path) -> None:
    kill(cluster.nodes[0].pid)
    gone = vimctl("logs", root=tmp_path, check=False)
    assert gone.code == 2
    assert "start one with `vimctl cluster up`" in gone.text
    again = vimctl("cluster", "up", "--port", str(free_port()), root=tmp_path)
    assert "removing the rest" in again.text
    assert all(not node.alive for node in cluster.nodes)
    record = local_cluster.read()
    assert record is not None
    # A busy head may miss the time limit of one question.
    eventually(lambda: local_cluster.count_nodes(record) == 1, "one node")
    assert "is stopped" in vimctl("cluster", "down", root=tmp_path).text
    assert all(not node.alive for node in record.nodes)
    assert not Path(record.folder).exists()
    assert "no local cluster was running" in vimctl("cluster", "down", root=tmp_path).text
