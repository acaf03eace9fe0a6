"""Sharded data parallelism (FSDP2): parameters, gradients and optimizer state split by rows over the workers.

Each worker keeps its rows of every tensor as a `DTensor`; a block's parameters are whole only while it computes.
`vim_core.tasks.build` makes networks that are split before they have any storage.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Collection, Iterable
from weakref import WeakKeyDictionary

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor

_skeletons: WeakKeyDictionary[nn.Module, nn.Module] = WeakKeyDictionary()


def local(value: Tensor) -> Tensor:
    """This worker's rows of a sharded tensor; a whole tensor as it is. Shares memory with it."""
    return value.to_local() if isinstance(value, DTensor) else value


def rows_here(value: DTensor) -> tuple[int, int]:
    """First row, and the one behind the last, that this worker keeps of a tensor sharded along its first axis."""
    mesh = value.device_mesh
    share = -(-value.shape[0] // mesh.size())
    start = min(value.shape[0], mesh.get_local_rank() * share)
    return start, start + value.to_local().shape[0]


def like(parameter: DTensor, rows: Tensor) -> DTensor:
    """A tensor sharded as `parameter` is, from this worker's rows of it."""
    found: DTensor = DTensor.from_local(
        rows,
        parameter.device_mesh,
        parameter.placements,
        run_check=False,
        shape=parameter.shape,
        stride=parameter.stride(),
    )
    return found


def split(
    module: nn.Module,
    mesh: DeviceMesh,
    keep: Collection[nn.Parameter] = (),
    dtype: torch.dtype = torch.float32,
) -> None:
    """Split a network in place: one group a block (every member of a ModuleList), one for the rest.

    All workers must hold the same weights, or none yet: a network on the meta device is split before it is filled.
    Vectors (biases, norms) and the parameters in `keep` stay whole, as they are too small to matter or wanted whole;
    their gradients are not averaged here. Build the optimizer afterwards: the parameters are replaced.

    Under bf16 the blocks' matrices are gathered in bf16 and their gradients reduced in fp32. Autocast would cast the
    gathered ones just the same, but keep every cast until the backward pass, and with it the network that was split.
    """
    from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

    _skeletons[module] = _skeleton(module)
    ignored = {*keep, *(p for p in module.parameters() if p.ndim < 2)}
    half = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32, cast_forward_inputs=False)
    for blocks in [m for m in module.modules() if isinstance(m, nn.ModuleList)]:
        for block in blocks:
            fully_shard(block, mesh=mesh, mp_policy=half, ignored_params=ignored)
    fully_shard(module, mesh=mesh, ignored_params=ignored)
    for part in module.modules():
        if isinstance(part, FSDPModule):
            # Sum, then divide: gloo knows no averaging reduction.
            part.set_force_sum_reduction_for_comms(True)


def whole(module: nn.Module, wanted: bool = True, device: torch.device | None = None) -> nn.Module | None:
    """The network with all of its weights: itself where it is not sharded, else a copy. Call it on every worker.

    The copy is put together one tensor after another, and only where it is `wanted`: there it lies on `device` (by
    default where the parts do), elsewhere there is never more than one whole tensor, and None is returned.
    """
    if module not in _skeletons:
        return module
    state = {}
    for name, value in module.state_dict().items():
        if wanted:
            state[name] = _full(value.detach(), device)
        elif isinstance(value, DTensor):
            value.full_tensor()
    if not wanted:
        return None
    plain = copy.deepcopy(_skeletons[module])
    plain.load_state_dict(state, assign=True)
    _copy_unsaved(module, plain, device)
    return plain


def clip(parameters: Iterable[nn.Parameter], limit: float) -> Tensor:
    """`torch.nn.utils.clip_grad_norm_` for gradients of which some are sharded: the norm is the global one."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    sharded = [g for g in gradients if isinstance(g, DTensor)]
    square = _square([local(g) for g in sharded])
    dist.all_reduce(square, group=sharded[0].device_mesh.get_group())
    norm = (square + _square([g for g in gradients if not isinstance(g, DTensor)])).sqrt()
    if math.isfinite(limit):
        torch._foreach_mul_([local(g) for g in gradients], (limit / (norm + 1e-6)).clamp(max=1.0))
    return norm


def _full(value: Tensor, device: torch.device | None) -> Tensor:
    """A whole copy on `device` with memory of its own; a collective for a sharded tensor."""
    if isinstance(value, DTensor):
        found: Tensor = value.full_tensor()
        return found.to(device or found.device)
    return value.to(device or value.device, copy=True)


def _copy_unsaved(source: nn.Module, target: nn.Module, device: torch.device | None) -> None:
    """Buffers that no state dict holds, such as tables of positions; they are whole on every worker."""
    for name, part in source.named_modules():
        for key in part._non_persistent_buffers_set:
            value = part._buffers[key]
            target.get_submodule(name)._buffers[key] = None if value is None else _full(value, device)


def _square(gradients: list[Tensor]) -> Tensor:
    """Sum of all squares."""
    if not gradients:
        return torch.zeros(())
    return torch.stack(torch._foreach_norm(gradients)).square().sum()


def _skeleton(module: nn.Module) -> nn.Module:
    """A copy without storage."""
    seen: dict[int, object] = {id(buffer): buffer.to("meta") for buffer in module.buffers()}
    for parameter in module.parameters():
        seen[id(parameter)] = nn.Parameter(parameter.detach().to("meta"), requires_grad=parameter.requires_grad)
    return copy.deepcopy(module, seen)
