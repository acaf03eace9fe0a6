"""A stuck step ends the process and writes its stacks down; a quick one leaves nothing behind; SIGTERM is a notice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from vim_core.training.interruptions import Preemption, Watchdog, listen, read_report, termination_notice

STUCK = """
import ctypes, sys, time
from pathlib import Path
from vim_core.training.interruptions import Watchdog

def compiles_forever():
    if sys.argv[2] == "holding the lock":
        ctypes.PyDLL(None).sleep(60)
    time.sleep(60)

dog = Watchdog(Path(sys.argv[1]), 0.3, rank=3)
dog.start(16)
dog.start(17)
compiles_forever()
"""


def stuck(path: Path, how: str) -> int:
    command = [sys.executable, "-c", STUCK, str(path), how]
    return subprocess.run(command, timeout=50, capture_output=True, check=False).returncode


def test_a_stuck_step_ends_the_process_and_names_the_place(tmp_path: Path) -> None:
    path = tmp_path / "stuck" / "worker.txt"
    assert stuck(path, "sleeping") == 1
    text = path.read_text()
    assert text.splitlines()[0] == "worker 3: step 17 took longer than run.step_timeout_s=0.3"
    assert "in compiles_forever" in text
    assert read_report(path.parent) == f"{text.splitlines()[0]}; its stacks are in {path}"


def test_a_step_that_holds_the_interpreter_is_noticed_too(tmp_path: Path) -> None:
    path = tmp_path / "worker.txt"
    assert stuck(path, "holding the lock") == 1
    assert "in compiles_forever" in path.read_text()


def test_quick_steps_and_those_without_a_limit_leave_nothing(tmp_path: Path) -> None:
    Watchdog(tmp_path / "worker.txt", 0).start(0)
    assert list(tmp_path.iterdir()) == []
    dog = Watchdog(tmp_path / "worker.txt", 60.0)
    dog.start(0)
    assert read_report(tmp_path) is None, "a running timer is no report"
    dog.start(1)
    dog.stop()
    dog.stop()
    assert list(tmp_path.iterdir()) == []


def test_sigterm_is_a_notice_to_stop() -> None:
    before = signal.getsignal(signal.SIGTERM)
    try:
        listen()
        assert termination_notice() is Preemption.NONE
        os.kill(os.getpid(), signal.SIGTERM)
        assert termination_notice() is Preemption.STOP
        listen()
        assert termination_notice() is Preemption.NONE, "a worker process may be used again"
    finally:
        signal.signal(signal.SIGTERM, before)
