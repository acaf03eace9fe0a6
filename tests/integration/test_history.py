"""Several processes open a new Dagster history at the same moment."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support.common import REPOSITORY, environment

pytestmark = pytest.mark.slow

OPEN = """
from pipelines import presets
from pipelines.orchestration import history
import dagster, sys
config = presets.load("smoke", [])
print("ready", flush=True)
sys.stdin.readline()
with history.instance(config) as opened:
    opened.get_runs()
"""


def test_opening_a_new_history_at_once(root: str) -> None:
    command = [sys.executable, "-c", OPEN]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    started = [
        subprocess.Popen(command, cwd=REPOSITORY, env=environment(root), text=True, **pipes)  # type: ignore[call-overload]
        for _ in range(4)
    ]
    for process in started:
        assert process.stdout.readline() == "ready\n"
    for process in started:
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in started:
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors[-3000:]
