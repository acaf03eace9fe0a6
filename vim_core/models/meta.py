"""Networks on the meta device get storage and initial weights in place, one tensor at a time, sharded or whole.

A module needs `reset_parameters()` where it has parameters of its own, which draws them as its constructor does, and
`fill_buffers()` where it has buffers that are not saved. A network's `draw_order()` gives the order in which its
constructor draws.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from vim_core.layers.transformer import init_weights


def allocate(module: nn.Module, device: str | torch.device) -> None:
    """Give every tensor storage on `device`; buffers that are not saved get their values, all others are undefined.

    Raises:
        TypeError: a module has unsaved buffers and no `fill_buffers()`.
    """
    module.to_empty(device=device)
    with torch.device("cpu"):
        for name, part in module.named_modules():
            if hasattr(part, "fill_buffers"):
                part.fill_buffers()
            elif part._non_persistent_buffers_set:
                raise TypeError(f"{name} ({type(part).__name__}) has buffers that are not saved and no fill_buffers()")


def materialise(module: nn.Module, device: str | torch.device, init: bool = True) -> None:
    """Give a network on the meta device its storage, in place; no second full copy exists at any time.

    Weights are drawn on the CPU from torch's generator, one module after another, and copied to the device; of a tensor
    that FSDP2 or `distribute_tensor` has sharded, this rank's shard is. So ranks with equal seeds hold shards of the
    values that ordinary construction draws with this seed.

    Args:
        module: the network; with `init` it needs `draw_order()`.
        init: draw the weights; else parameters and saved buffers are undefined until they are loaded.

    Raises:
        TypeError: a module lacks a method that the module docstring names.
    """
    allocate(module, device)
    if not init:
        return
    if not hasattr(module, "draw_order"):
        raise TypeError(f"{type(module).__name__} has no draw_order(): it can be allocated and loaded, not drawn")
    with torch.device("cpu"), torch.no_grad():
        for part in module.draw_order():  # type: ignore[operator]
            if part._parameters:
                reset = getattr(part, "reset_parameters", None)
                if reset is None:
                    raise TypeError(f"{type(part).__name__} has parameters and no reset_parameters()")
                with drawn_on_cpu(part):
                    reset()
        # In the order of `module.apply(init_weights)`, by which constructors end: children first.
        module.apply(_init_on_cpu)


def _init_on_cpu(part: nn.Module) -> None:
    if isinstance(part, (nn.Linear, nn.Embedding)):
        with drawn_on_cpu(part):
            init_weights(part)


@contextmanager
def drawn_on_cpu(part: nn.Module) -> Iterator[None]:
    """Context in which the module's own parameters are whole CPU tensors, whose values the real ones get on leaving."""
    real = {name: value for name, value in part._parameters.items() if value is not None}
    for name, value in real.items():
        part._parameters[name] = nn.Parameter(torch.empty(value.shape, dtype=value.dtype), requires_grad=False)
    try:
        yield
        for name, value in real.items():
            copy_into(value, part._parameters[name])  # type: ignore[arg-type]
    finally:
        part._parameters.update(real)


@torch.no_grad()
def copy_into(target: Tensor, value: Tensor) -> None:
    """Copy a whole tensor into `target`; into a DTensor this rank's shard of it, without communication."""
    # Tested by attribute: importing DTensor takes a second, and where there is one it has been imported.
    if hasattr(target, "placements"):
        from torch.distributed.tensor import distribute_tensor

        part = distribute_tensor(value, target.device_mesh, target.placements, src_data_rank=None)  # type: ignore[attr-defined]
        target.to_local().copy_(part.to_local())  # type: ignore[attr-defined]
    else:
        target.copy_(value)
