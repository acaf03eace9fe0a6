"""Compiled programs kept on disk: a second process finds them. PJRT's CPU cannot load them, so that needs a TPU."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.xla

PROGRAM = """
import sys, torch
from vim_core.distributed import runtimes as seam
xla = seam.create("xla", sys.argv[2], threads=1, compile_cache=sys.argv[1])
x = xla.to_device({"x": torch.ones(4, 4)})["x"]
print(float((x @ x).sum()))
import torch_xla.debug.metrics as metrics
found = ("Hit", "DeserializeFailure")
print(metrics.counter_value("PersistentCacheMiss") or 0)
print(sum(metrics.counter_value(f"PersistentCache{name}") or 0 for name in found))
"""


def run(folder: Path, precision: str = "fp32") -> list[float]:
    """The program's result, and how many programs it did not find and did find on disk."""
    arguments = [sys.executable, "-c", PROGRAM, str(folder), precision]
    ended = subprocess.run(arguments, capture_output=True, text=True, check=False, timeout=240)
    assert ended.returncode == 0, ended.stderr[-3000:]
    return [float(word) for word in ended.stdout.split()]


def test_a_second_process_finds_what_the_first_compiled(tmp_path: Path) -> None:
    folder = tmp_path / "programs"
    assert run(folder) == [64.0, 1.0, 0.0]
    assert len(list((folder / "highest").iterdir())) == 1
    assert run(folder) == [64.0, 0.0, 1.0]
    assert run(folder, "high") == [64.0, 1.0, 0.0], "a program's key does not name its precision"
