"""Facts of steps from profiled events; the memory of process trees."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.profiler import record_function

from vim_core.rehearsal.processes import proportional_bytes, tree
from vim_core.rehearsal.profile import Event, StepProfiler, highest, live_bytes, summarise

S = 1_000_000_000


def test_a_part_has_its_own_time_and_a_discriminator_all_of_its_step() -> None:
    events = [
        Event("vim.data", 0, S),
        Event("vim.forward", S, 3 * S),
        Event("vim.encode", 2 * S, 3 * S),
        Event("vim.discriminator", 4 * S, 10 * S),
        Event("vim.backward", 5 * S, 8 * S),
        Event("vim.collectives", 7 * S, 8 * S),
        Event("vim.log", 11 * S, 12 * S),
    ]
    profile = summarise(events, 2)
    halves = {"data": 0.5, "forward": 0.5, "encode": 0.5, "discriminator": 2.5, "collectives": 0.5, "log": 0.5}
    assert profile.seconds == pytest.approx(halves | {"other": 1.0})


def test_an_accelerators_time_is_that_of_its_operations() -> None:
    events = [
        Event("vim.data", 0, S), Event("vim.forward", S, 2 * S), Event("vim.forward", S, 5 * S, 9, on_device=True),
        Event("vim.backward", 5 * S, 7 * S, 9, on_device=True),
    ]  # fmt: skip
    assert summarise(events, 1).seconds == pytest.approx({"data": 1.0, "forward": 4.0, "backward": 2.0, "other": 0.0})


def test_reads_have_their_part_and_collectives_their_bytes() -> None:
    read = "aten::_local_scalar_dense"
    events = [
        Event("vim.optimizer", 0, 100),
        Event("aten::_fused_adamw_", 10, 20),
        Event(read, 15, 16),  # by the CPU's kernel
        Event(read, 30, 31),
        Event("vim.log", 200, 300),
        Event(read, 210, 211),
        Event(read, 400, 401),
        Event("c10d::allreduce_", 40, 50),
        Event("gloo:all_reduce", 45, 50, 2, bytes=4000),
        Event("_c10d_functional::wait_tensor", 60, 61),
    ]
    profile = summarise(events, 1)
    assert profile.reads == {"optimizer": 1.0, "log": 1.0, "other": 1.0}
    assert (profile.collectives, profile.collective_bytes) == (1.0, 4000.0)
    assert highest([Event("[memory]", t, t, bytes=b) for t, b in ((3, -50), (1, 100), (2, 30))]) == 130.0


class Owner:
    """Holds a network, one tensor twice, and something that leads everywhere."""

    def __init__(self) -> None:
        self.network = nn.Linear(256, 256, bias=False)
        self.same = [self.network.weight.detach(), {"again": self.network.weight}]
        self.module = torch


def test_a_profiled_step_on_the_cpu_has_its_peak_and_its_reads() -> None:
    owner = Owner()
    assert live_bytes(owner) == 4 * 256 * 256
    profiler = StepProfiler(torch.device("cpu"), owner)
    profiler.start()
    with record_function("vim.forward"):
        out = owner.network(torch.ones(1024, 256))
        float(out[0, 0])
    del out
    profile = profiler.stop(1)
    assert profile.reads == {"forward": 1.0}
    assert set(profile.seconds) == {"forward", "other"}
    # Weights, input, output.
    assert profile.peak_bytes == pytest.approx(4 * (256 * 256 + 2 * 1024 * 256), rel=0.05)


def test_a_process_tree_has_children_and_their_memory() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        assert {os.getpid(), child.pid} <= set(tree())
        assert proportional_bytes(os.getpid()) > 10_000_000
    finally:
        child.communicate(b"\n")
    assert tree(child.pid) == [child.pid]
    assert proportional_bytes(child.pid) == 0
