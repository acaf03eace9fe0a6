"""Processes of Beam on one machine: each begins with its share of the threads, this one keeps its own."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from components.engines.beam import THREAD_VARIABLES, run_shards
from components.engines.devices import set_threads
from tests.support.common import other_checkout
from tests.support.synthetic import context_of

pytestmark = pytest.mark.slow


def numbers(place: str) -> Any:
    """A Map step that writes down what a new process reads of the threads, and what torch and Arrow then use."""

    def note(name: str) -> None:
        import pyarrow as pa
        import torch

        set_threads(2)
        line = [str(os.getpid()), *(os.environ.get(name, "-") for name in THREAD_VARIABLES)]
        line += [str(torch.get_num_threads()), str(pa.cpu_count())]
        Path(place, name).write_text(" ".join(line))

    return note


def test_processes_begin_with_their_share_of_the_threads_and_the_commands_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(other_checkout(tmp_path))
    before = {name: os.environ.get(name) for name in THREAD_VARIABLES}
    ctx = context_of(tmp_path, "tokenize")
    ctx.run.threads, ctx.run.beam_processes = 4, 2
    names = ["a", "b", "c", "d"]
    for name in names:
        (tmp_path / name).touch()
    run_shards(ctx.run, names, numbers(str(tmp_path)), lambda name: False, ctx.progress)
    lines = [(tmp_path / name).read_text().split() for name in names]
    assert len({line[0] for line in lines}) == 2
    assert str(os.getpid()) not in {line[0] for line in lines}
    assert {tuple(line[1:]) for line in lines} == {("2", "2", "2", "2", "2")}
    assert {name: os.environ.get(name) for name in THREAD_VARIABLES} == before
