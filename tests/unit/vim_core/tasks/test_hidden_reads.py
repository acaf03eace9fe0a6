"""A step never makes the host wait for its device: nothing is read from it, and nothing sent from ordinary memory."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from tests.support.tiny import Make, code_data, image_data, tasks_on
from vim_core.config import DiscriminatorConfig, OptimConfig
from vim_core.distributed.runtimes.base import CpuRuntime
from vim_core.optim.masked_adamw import scalar
from vim_core.tasks.base import Task

FAR = torch.device("meta")
"""Stands for a device with a memory of its own; shapes alone are computed there, and a read of a value is an error."""
READS = ("_local_scalar_dense", "nonzero", "masked_select", "unique")


class FarRuntime(CpuRuntime):
    """A worker whose device is `FAR`, with page-locked memory as for a GPU."""

    device = FAR
    pins_memory = True

    def autocast(self) -> contextlib.AbstractContextManager[object]:
        return contextlib.nullcontext()


def host_tensors(values: Any) -> list[Tensor]:
    return [value for value in pytree.tree_leaves(values) if isinstance(value, Tensor) and value.device.type == "cpu"]


class Waits(TorchDispatchMode):
    """Names the operations of a step that would make the host wait for a GPU."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = func.overloadpacket.__name__, kwargs or {}
        if name == "_fused_adamw_":
            return None  # has no shapes to compute
        far = any(isinstance(value, Tensor) and value.device == FAR for value in pytree.tree_leaves((args, kwargs)))
        sent = name == "_to_copy" and kwargs.get("device") == FAR and bool(host_tensors(args))
        if (far and name in READS) or (sent and not kwargs.get("non_blocking")):
            self.found.append(name)
        if name == "copy_" and args[0].device != args[1].device and not args[2:]:
            self.found.append(name)
        return func(*args, **kwargs)


class Constructed(TorchFunctionMode):
    """Names the tensors that are made of Python numbers on the device: by a copy that dispatch does not show."""

    def __init__(self, waits: Waits) -> None:
        super().__init__()
        self.waits = waits

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in (torch.tensor, torch.as_tensor) and torch.device(kwargs.get("device") or "cpu") == FAR:
            self.waits.found.append("tensor")
        return func(*args, **kwargs)


@contextlib.contextmanager
def waits() -> Iterator[list[str]]:
    with Waits() as found, Constructed(found):
        yield found.found


@pytest.fixture
def far(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Make]:
    monkeypatch.setattr(Tensor, "pin_memory", lambda tensor: tensor)
    monkeypatch.setattr(sys.modules["torch.optim.adam"], "_device_dtype_check_for_fused", lambda parameter: None)
    images, codes = image_data(tmp_path, train=12), code_data(tmp_path / "codes", 12)
    return tasks_on(images, codes, lambda precision: FarRuntime("fp32", 1))


FACTORED = OptimConfig(kind="factored", first_moment="int8", update_clip=1.0)


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("quantizer", {"ema": 0.9}),
        ("quantizer", {"accumulate": 2, "discriminator": DiscriminatorConfig(channels=4, base=64, stddev_group=2)}),
        ("prior", {"ema": 0.9}),
        ("prior", {"optim": FACTORED}),
        ("classifier", {}),
    ],
)
def test_no_step_waits_for_its_device(far: dict[str, Make], name: str, fields: dict[str, Any]) -> None:
    """Four steps: with restarts of codes, R1, and a growing adversarial weight."""
    task: Task = far[name](**fields)
    found: list[list[str]] = []
    for step in range(4):
        batch = task.runtime.to_device(task.batch(step), task.config.accumulate)
        task.runtime.seed_step(0, step)
        with waits() as names:
            task.step(step, batch)
        found.append(names)
    assert found == [[]] * 4


def test_waiting_is_noticed() -> None:
    there = torch.ones(2, device=FAR)
    with waits() as names, contextlib.suppress(RuntimeError):
        torch.ones(2).to(FAR)
        torch.tensor(1.0, device=FAR)
        there.copy_(torch.ones(2))
        torch.full((), 1.0, device=FAR)
        float(there.sum())
    assert names == ["_to_copy", "tensor", "copy_", "_local_scalar_dense"]


@pytest.mark.parametrize("value", [0.0, 1.0, 0.1, 1e-30])
def test_a_scalar_is_the_nearest_float(value: float) -> None:
    assert torch.equal(scalar(value, torch.device("cpu")), torch.tensor(value))
