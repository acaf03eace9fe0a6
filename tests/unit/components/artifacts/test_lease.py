"""Work has one owner: the living keep it, the dead lose it at once, the silent after a while."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from components.artifacts import lease
from tests.support.common import REPOSITORY
from vim_core.errors import StorageError
from vim_core.storage import io

NEVER = 1e9
OWNER = """
import sys
from components.artifacts import lease
folder, log = sys.argv[1:]
def say(word):
    with open(log, "a") as stream:
        stream.write(word + "\\n")
print("ready", flush=True)
sys.stdin.readline()
with lease.hold(folder, print, heartbeat=0.05, stale=1e9, poll=0.01):
    say("enter")
    print("held", flush=True)
    sys.stdin.readline()
    say("exit")
"""

Starter = Callable[[], "subprocess.Popen[str]"]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Starter]:
    """Start processes that take the lease on one line of input and give it back on the next."""
    running: list[subprocess.Popen[str]] = []

    def starter() -> subprocess.Popen[str]:
        command = [sys.executable, "-c", OWNER, str(tmp_path / "leases"), str(tmp_path / "log")]
        process = subprocess.Popen(command, cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        running.append(process)
        assert line(process) == "ready"
        return process

    yield starter
    for process in running:
        process.kill()
        process.communicate()


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def tell(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def test_a_killed_owner_loses_its_work_to_the_next(tmp_path: Path, start: Starter) -> None:
    owner = start()
    tell(owner)
    assert line(owner) == "held"
    owner.send_signal(signal.SIGKILL)
    # Not waited for: a killed process that nobody has reaped yet is as dead.
    os.waitid(os.P_PID, owner.pid, os.WEXITED | os.WNOWAIT)
    notes: list[str] = []
    with lease.hold(str(tmp_path / "leases"), notes.append, stale=NEVER) as held:
        held.check()
        assert held.number == 2
        first = json.loads((tmp_path / "leases" / "lease-000001.json").read_text())
        assert held.dead == first["token"]
    assert len(notes) == 1
    assert f"process {owner.pid}" in notes[0]


def test_a_living_owner_is_waited_for(tmp_path: Path, start: Starter) -> None:
    owner = start()
    tell(owner)
    assert line(owner) == "held"
    notes: list[str] = []
    waiting = threading.Event()

    def second() -> None:
        def note(text: str) -> None:
            notes.append(text)
            waiting.set()

        with lease.hold(str(tmp_path / "leases"), note, stale=NEVER, poll=0.01) as held:
            assert held.dead is None
            with open(tmp_path / "log", "a") as stream:
                stream.write("second\n")

    thread = threading.Thread(target=second)
    thread.start()
    assert waiting.wait(60)
    tell(owner)
    thread.join(60)
    assert (tmp_path / "log").read_text().split() == ["enter", "exit", "second"]
    assert len(notes) == 1
    assert f"process {owner.pid}" in notes[0]
    assert "waiting" in notes[0]


def test_of_simultaneous_takeovers_one_wins(tmp_path: Path, start: Starter) -> None:
    dead = start()
    tell(dead)
    assert line(dead) == "held"
    rivals = [start() for _ in range(2)]
    dead.kill()
    dead.wait()
    for rival in rivals:
        tell(rival)
        tell(rival)
    for rival in rivals:
        assert rival.wait(60) == 0
    # Each one enters and leaves before the next one enters.
    assert (tmp_path / "log").read_text().split() == ["enter"] + ["enter", "exit"] * 2
    numbers = sorted(path.name for path in (tmp_path / "leases").glob("lease-*"))
    assert numbers == [f"lease-{number:06d}.json" for number in (1, 2, 3)]


def test_a_lease_is_free_at_once_after_its_owner_ended_or_failed(tmp_path: Path) -> None:
    notes: list[str] = []
    for number in (1, 2, 3):
        with lease.hold(str(tmp_path), notes.append, stale=NEVER) as held:
            assert held.number == number
    with pytest.raises(KeyError), lease.hold(str(tmp_path), notes.append, stale=NEVER):
        raise KeyError("the component failed")
    with lease.hold(str(tmp_path), notes.append, stale=NEVER) as held:
        assert held.number == 5
    assert notes == []


def plant(folder: str, **changes: object) -> None:
    """Leave a lease as another process would have."""
    owner = dataclasses.replace(lease.this_owner(), **changes)  # type: ignore[arg-type]
    io.write_bytes(io.join(folder, "lease-000001.json"), json.dumps(dataclasses.asdict(owner)).encode())


def test_a_reused_process_id_is_not_the_owner(tmp_path: Path) -> None:
    plant(str(tmp_path), started="long ago")
    with lease.hold(str(tmp_path), print, stale=NEVER) as held:
        assert held.number == 2


def test_a_silent_owner_elsewhere_loses_its_work(anywhere: str) -> None:
    plant(anywhere, machine="another machine", host="elsewhere", pid=1)
    notes: list[str] = []
    with lease.hold(anywhere, notes.append, stale=0.2, poll=0.01) as held:
        assert held.number == 2
        # It may be alive after all, only cut off: its files are not ours to remove.
        assert held.dead is None
    assert "waiting" in notes[0]
    assert "taking over" in notes[1]


def test_an_owner_elsewhere_keeps_its_work_while_its_heart_beats(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(str(tmp_path), machine="another machine")
    now = 0.0
    monkeypatch.setattr(lease, "time", SimpleNamespace(monotonic=lambda: now))
    watch = lease._Watch(str(tmp_path), 1, stale=30.0)
    for count in range(20):
        now += 20.0
        # Its clock says 1970: only change counts.
        beat = {"token": "t", "count": count, "time": 0.0, "released": False}
        io.write_bytes(str(tmp_path / "beat-000001.json"), json.dumps(beat).encode())
        assert watch.end() is None
    now += 29.0
    assert watch.end() is None
    now += 2.0
    assert watch.end() == "silent"


def test_a_living_owner_here_keeps_its_work_though_its_heart_stalls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(str(tmp_path))
    now = 0.0
    monkeypatch.setattr(lease, "time", SimpleNamespace(monotonic=lambda: now))
    watch = lease._Watch(str(tmp_path), 1, stale=30.0)
    now = 3600.0
    assert watch.end() is None


def test_the_heart_beats(tmp_path: Path) -> None:
    with lease.hold(str(tmp_path), print, heartbeat=0.01):
        beat = tmp_path / "beat-000001.json"
        while not beat.exists():
            time.sleep(0.001)
        first = beat.read_bytes()
        while beat.read_bytes() == first:
            time.sleep(0.001)


def test_an_owner_that_was_passed_over_is_told(tmp_path: Path) -> None:
    with lease.hold(str(tmp_path), print) as held:
        held.check()
        other = dataclasses.replace(held.owner, pid=4711, host="elsewhere")
        io.create_exclusive(str(tmp_path / "lease-000002.json"), json.dumps(dataclasses.asdict(other)).encode())
        assert not held.owned()
        with pytest.raises(StorageError, match="taken over by process 4711 on elsewhere"):
            held.check()


def test_an_owner_that_cannot_write_its_release_removes_its_lease(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(uri: str, data: bytes) -> None:
        raise OSError(28, "No space left on device", uri)

    with monkeypatch.context() as patch, lease.hold(str(tmp_path), print):
        patch.setattr(io, "write_bytes", full)
    with lease.hold(str(tmp_path), print, stale=NEVER) as held:
        assert held.number == 1


def test_an_unusable_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    folder = str(tmp_path / "file" / "leases")
    with pytest.raises(StorageError, match="leases"), lease.hold(folder, print):
        pass


def test_who_does_not_wait_gets_it_where_nobody_living_has_it(anywhere: str) -> None:
    with lease.hold_if_free(anywhere) as first:
        assert first is not None
        assert lease.living_owner(anywhere) == str(first.owner)
        with lease.hold_if_free(anywhere) as second:
            assert second is None
        first.check()
    assert lease.living_owner(anywhere) is None
    with lease.hold(anywhere, print, stale=NEVER) as held:
        assert held.number == 2
        with lease.hold_if_free(anywhere) as third:
            assert third is None
