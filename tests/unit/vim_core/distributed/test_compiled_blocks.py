"""Blocks that are compiled in place: where gradients are recorded, one program for all, none for copies."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vim_core.distributed.compiled_blocks import compile_blocks
from vim_core.distributed.runtimes.base import CpuRuntime


class Scale(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(factor))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Scale(2.0), Scale(3.0)])

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[nn.Module]:
    """Blocks that a program ran, in order."""
    runs: list[nn.Module] = []

    def fake(function: Any, **_: Any) -> Any:
        def program(self: nn.Module, *args: Any) -> Any:
            runs.append(self)
            return function(self, *args)

        return program

    monkeypatch.setattr(torch, "compile", fake)
    return runs


def test_programs_run_where_gradients_are_recorded(runs: list[nn.Module]) -> None:
    net, x = Net(), torch.ones(())
    assert compile_blocks(net)
    assert list(net.state_dict()) == ["blocks.0.factor", "blocks.1.factor"]
    assert isinstance(net.blocks[0], Scale)
    assert net(x).item() == 6
    assert runs == list(net.blocks)
    with torch.no_grad():
        assert net(x).item() == 6
    assert len(runs) == 2
    other = copy.deepcopy(net)
    with torch.no_grad():
        next(other.parameters()).fill_(5.0)
        assert (net(x).item(), other(x).item()) == (6, 15)
    assert len(runs) == 2


def test_only_several_workers_compile_block_by_block(runs: list[nn.Module]) -> None:
    one, two = CpuRuntime("fp32", 1), CpuRuntime("fp32", 1, 0, 2)
    one.compiled = two.compiled = True
    net, frozen = Net(), Net().requires_grad_(False)
    assert one.compile(net) is not net
    assert two.compile(net) is net
    assert two.compile(frozen) is not frozen, "nothing is exchanged between its blocks"
