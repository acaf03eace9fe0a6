"""The local cluster's record and processes, without starting Ray."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from pipelines.jobs import local, processes, profile
from pipelines.jobs.processes import Named
from vim_core.errors import ConfigError, VimError

SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A state folder of this test's own; gives the place of the local cluster in it."""
    monkeypatch.setenv("VIM_STATE", str(tmp_path / "state"))
    return local.place()


def recorded(state: Path, *nodes: Named) -> local.Record:
    folder = state / "ray"
    folder.mkdir(parents=True)
    (state / "token").write_text("secret")
    record = local.Record("http://127.0.0.1:1", "127.0.0.1:2", str(state / "token"), "py", str(folder), 2, list(nodes))
    (state / "cluster.json").write_text(json.dumps(asdict(record)))
    return record


def test_the_profile_is_completed_from_a_running_cluster(state: Path) -> None:
    assert profile.load("local").address == ""
    record = recorded(state, processes.named(os.getpid()))
    assert local.read() == record
    cluster = profile.load("local")
    assert (cluster.address, cluster.token_file, cluster.python) == (record.address, record.token_file, "py")
    assert cluster.run == {"ray_address": "127.0.0.1:2"}
    assert Path(cluster.env["PYTHONPATH"], "pipelines", "cli", "main.py").is_file()
    with pytest.raises(ConfigError, match=r"1 of 1 nodes at http://127\.0\.0\.1:1; submit to it"):
        local.up(1, 1, 0, print)


def test_a_dead_head_leaves_the_profile_alone(state: Path) -> None:
    recorded(state, Named(os.getpid(), 1.0))
    assert profile.load("local").address == ""


def test_down_ends_the_recorded_processes_what_they_started_and_no_other(state: Path) -> None:
    folder = str(state / "ray")
    node = subprocess.Popen(SLEEP, start_new_session=True)
    orphan = subprocess.Popen(SLEEP, start_new_session=True, env={**os.environ, local.MARK: folder})
    other = subprocess.Popen(SLEEP, start_new_session=True)
    try:
        ours = [processes.named(node.pid), processes.named(orphan.pid)]
        recorded(state, ours[0], Named(other.pid, 1.0))
        assert local.down() is not None
        assert [process.found() for process in ours] == [None, None]
        assert other.poll() is None, "its id was recorded with the start of another process"
        assert not Path(folder).exists()
        assert local.read() is None
        assert local.down() is None
    finally:
        for process in (node, orphan, other):
            process.kill()
            process.wait()


def test_a_node_that_does_not_start_is_told_with_its_log_and_nothing_stays(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "_words", lambda *given: ["--no-such-word"])
    with pytest.raises(VimError, match=r"node 0 of the local cluster ended; the end of its log: .*no-such-word"):
        local.up(2, 1, 0, lambda text: None)
    assert [path.name for path in state.iterdir()] == ["lock"]


def test_a_node_that_ray_found_too_late_is_started_again(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = recorded(state, Named(os.getpid(), 1.0))
    Path(record.folder, "node-0.log").write_text("Exception: The current node timed out during startup.")
    started: list[int] = []

    def start(given: local.Record, number: int, nodes: int) -> local.Record:
        started.append(number)
        return given

    joined = iter([0, 0, 1])
    monkeypatch.setattr(local, "_node", start)
    monkeypatch.setattr(local, "ready", lambda given: next(joined))
    said: list[str] = []
    local._joined(record, 1, 1, said.append)
    assert started == [0, 0]
    assert "was late" in said[0]


def test_the_token_is_new_each_time_and_nobody_elses_to_read(state: Path) -> None:
    state.mkdir(parents=True)
    tokens = set()
    for _ in range(2):
        record = local._prepared(1, 0)
        path = Path(record.token_file)
        assert path.stat().st_mode & 0o777 == 0o600
        assert Path(record.folder).stat().st_mode & 0o777 == 0o700
        tokens.add(path.read_text())
        local._remove(record)
    assert len(tokens) == 2


@pytest.mark.parametrize(("nodes", "cpus"), [(0, 1), (1, 0)])
def test_numbers_that_make_no_sense_are_refused(state: Path, nodes: int, cpus: int) -> None:
    with pytest.raises(ConfigError, match="at least one node"):
        local.up(nodes, cpus, 0, print)


def test_a_damaged_record_is_named(state: Path) -> None:
    state.mkdir(parents=True)
    (state / "cluster.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"cluster\.json: not what `vimctl cluster up` writes"):
        local.read()
