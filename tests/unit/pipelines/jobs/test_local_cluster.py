"""The local cluster's record and processes, without starting Ray."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from components.artifacts.process import ProcessId, current, start_time
from pipelines.jobs import local_cluster, profile
from vim_core.errors import ConfigError, VimError

SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the local cluster, which is this test's own."""
    monkeypatch.setenv("VIM_STATE", str(tmp_path / "state"))
    monkeypatch.setattr(local_cluster, "POLL_S", 0.01)
    return local_cluster.state_folder()


def recorded(state: Path, *nodes: ProcessId) -> local_cluster.LocalCluster:
    folder = state / "ray"
    folder.mkdir(parents=True)
    (state / "token").write_text("secret")
    record = local_cluster.LocalCluster(
        "http://127.0.0.1:1", "127.0.0.1:2", str(state / "token"), "py", str(folder), 2, list(nodes)
    )
    (state / "cluster.json").write_text(json.dumps(asdict(record)))
    return record


def test_the_profile_is_completed_from_a_running_cluster(state: Path) -> None:
    assert profile.load("local").address == ""
    record = recorded(state, current())
    assert local_cluster.read() == record
    cluster = profile.load("local")
    assert (cluster.address, cluster.token_file, cluster.python) == (record.address, record.token_file, "py")
    assert cluster.run == {"ray_address": "127.0.0.1:2"}
    assert Path(cluster.env["PYTHONPATH"].split(os.pathsep)[0], "pipelines", "cli", "main.py").is_file()
    with pytest.raises(ConfigError, match=r"1 of 1 nodes at http://127\.0\.0\.1:1; submit to it"):
        local_cluster.up(1, 1, 0, print)
    dead = replace(record, nodes=[ProcessId(os.getpid(), "1")])
    (state / "cluster.json").write_text(json.dumps(asdict(dead)))
    assert profile.load("local").address == ""


def test_down_ends_the_recorded_processes_what_they_started_and_no_other(state: Path) -> None:
    folder = str(state / "ray")
    node = subprocess.Popen(SLEEP, start_new_session=True)
    orphan = subprocess.Popen(SLEEP, start_new_session=True, env={**os.environ, local_cluster.FOLDER_VARIABLE: folder})
    other = subprocess.Popen(SLEEP, start_new_session=True)
    try:
        ours = [ProcessId(each.pid, start_time(each.pid) or "") for each in (node, orphan)]
        recorded(state, ours[0], ProcessId(other.pid, "1"))
        assert local_cluster.down() is not None
        assert [process.alive for process in ours] == [False, False]
        assert other.poll() is None, "its id was recorded with the start of another process"
        assert not Path(folder).exists()
        assert local_cluster.read() is None
        assert local_cluster.down() is None
    finally:
        for process in (node, orphan, other):
            process.kill()
            process.wait()


def test_a_node_that_does_not_start_is_reported_with_its_log_and_nothing_stays(
    state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho $* | grep -o 'pipelines.*start'; echo No such option; exit 2\n")
    python.chmod(0o700)
    prepare = local_cluster._prepare
    monkeypatch.setattr(local_cluster, "_prepare", lambda *args: replace(prepare(*args), python=str(python)))
    log = r"pipelines\.jobs\.local_cluster start \| No such option"
    with pytest.raises(VimError, match=f"node 0 of the local cluster ended; the end of its log: {log}"):
        local_cluster.up(2, 1, 0, lambda text: None)
    assert [path.name for path in state.iterdir()] == ["lock"]


def test_a_node_that_timed_out_in_ray_is_started_again(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = recorded(state, ProcessId(os.getpid(), "1"))
    Path(record.folder, "node-0.log").write_text("Exception: The current node timed out during startup.")
    started: list[int] = []

    def start(cluster: local_cluster.LocalCluster, number: int, nodes: int) -> local_cluster.LocalCluster:
        started.append(number)
        return cluster

    joined = iter([0, 0, 1])
    monkeypatch.setattr(local_cluster, "_start_node", start)
    monkeypatch.setattr(local_cluster, "count_nodes", lambda cluster: next(joined))
    said: list[str] = []
    local_cluster._wait_for_nodes(record, 1, 1, said.append)
    assert started == [0, 0]
    assert "timed out while starting" in said[0]


def test_the_token_is_new_each_time_and_nobody_elses_to_read(state: Path) -> None:
    state.mkdir(parents=True)
    tokens = set()
    for _ in range(2):
        record = local_cluster._prepare(1, 0)
        path = Path(record.token_file)
        assert path.stat().st_mode & 0o777 == 0o600
        assert Path(record.folder).stat().st_mode & 0o777 == 0o700
        tokens.add(path.read_text())
        local_cluster._delete(record)
    assert len(tokens) == 2


def test_mistakes_and_a_damaged_record_are_named(state: Path) -> None:
    for nodes, cpus in ((0, 1), (1, 0)):
        with pytest.raises(ConfigError, match="at least one node"):
            local_cluster.up(nodes, cpus, 0, print)
    state.mkdir(parents=True)
    (state / "cluster.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"cluster\.json: not what `vimctl cluster up` writes"):
        local_cluster.read()
