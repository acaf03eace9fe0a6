"""What the tests of the XLA lane share: stepping a task as the loop does, and looking at how tensors are split."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from vim_core.tasks.base import Task

Row = dict[str, float]


def stepped(task: Task, steps: int, watch: Callable[[], int] | None = None) -> tuple[list[Row], list[int]]:
    """Train `steps` steps; returns the figures and what `watch` said after each step."""
    rows, seen, runtime = [], [], task.runtime
    runtime.mark_sharding(task.modules, task.optimizers)
    for step in range(steps):
        runtime.seed_step(task.config.seed, step)
        figures = task.step(step, runtime.to_device(task.batch(step), task.config.accumulate))
        runtime.end_step()
        rows.append({name: float(value) for name, value in figures.items()})
        seen.append(watch() if watch else 0)
    return rows, seen


def device_bytes(tensor: Tensor) -> list[int]:
    """Bytes of a tensor that each device holds."""
    import torch_xla.core.xla_model as xm

    xm.wait_device_ops()
    from torch_xla.distributed.spmd import XLAShardedTensor

    shards = XLAShardedTensor(tensor).local_shards
    return [shard.data.numel() * shard.data.element_size() for shard in shards]


def module_bytes(module: nn.Module) -> list[int]:
    """Bytes of all parameters that each device holds."""
    return [sum(parts) for parts in zip(*(device_bytes(p) for p in module.parameters()), strict=True)]


def whole_bytes(module: nn.Module) -> int:
    """Bytes of all parameters in one copy."""
    return sum(p.numel() * p.element_size() for p in module.parameters())


def on_cpu(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers."""
    return {name: torch.clone(value.detach().cpu()) for name, value in module.state_dict().items()}
