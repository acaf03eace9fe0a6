"""A process is told from a later one of its id, also when the clock is set."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys

import psutil
import pytest

from components.artifacts import process


def test_this_process_is_alive_and_another_of_its_id_is_not() -> None:
    me = process.current()
    assert me.alive
    assert not dataclasses.replace(me, started="1").alive
    assert not dataclasses.replace(me, pid=2**22 + 1).alive
    assert not dataclasses.replace(me, pid=-1).alive


def test_an_ended_process_is_not_alive_though_nobody_has_reaped_it() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    found = process.ProcessId(child.pid, process.start_time(child.pid) or "")
    assert found.alive
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert not found.alive
    child.communicate()


def test_a_set_clock_ends_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    me = process.current()
    before = psutil.Process().create_time()
    old_format = process.ProcessId(me.pid, str(before))
    another = process.ProcessId(me.pid, str(before - 10 * process.OLD_TOLERANCE_S))
    monkeypatch.setattr(psutil.Process, "create_time", lambda self: before + 3600.0)
    assert me.alive
    assert old_format.alive
    assert not another.alive
