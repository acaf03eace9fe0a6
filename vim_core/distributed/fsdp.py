"""Fully sharded data parallelism (FSDP2): parameters, gradients and optimizer state sharded by rows over the workers.

Each worker holds its rows of every matrix as a `DTensor`; a block's parameters are gathered only while it computes.
`vim_core.tasks.base` makes networks that are sharded before they have any storage.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Collection, Iterable, Sequence
from weakref import WeakKeyDictionary

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor
from torch.profiler import record_function

from vim_core.errors import ConfigError

_skeletons: WeakKeyDictionary[nn.Module, nn.Module] = WeakKeyDictionary()


def local(value: Tensor) -> Tensor:
    """This worker's rows of a sharded tensor, without copy; any other tensor itself."""
    return value.to_local() if isinstance(value, DTensor) else value


def split_by_rows(value: DTensor) -> bool:
    """True if the tensor is sharded along its first axis over the last axis of the mesh, and copied over the others."""
    *others, last = value.placements
    return last.is_shard(0) and all(placement.is_replicate() for placement in others)


def rows_here(value: DTensor) -> tuple[int, int]:
    """First row and end of this worker's rows of a tensor that is sharded along its first axis."""
    mesh, axis = value.device_mesh, value.device_mesh.ndim - 1
    share = -(-value.shape[0] // mesh.size(axis))
    start = min(value.shape[0], mesh.get_local_rank(axis) * share)
    return start, start + value.to_local().shape[0]


def copy_here(value: DTensor) -> tuple[int, int]:
    """Which of how many copies of a tensor this worker has a part of: (0, 1), unless there is a copy on each node."""
    mesh = value.device_mesh
    return (mesh.get_local_rank(0), mesh.size(0)) if mesh.ndim > 1 else (0, 1)


def like(parameter: DTensor, rows: Tensor) -> DTensor:
    """A tensor with as many rows as `parameter` and sharded as it is, from this worker's rows [r, …] of it."""
    shape = (parameter.shape[0], *rows.shape[1:])
    sharded: DTensor = DTensor.from_local(
        rows,
        parameter.device_mesh,
        parameter.placements,
        run_check=False,
        shape=torch.Size(shape),
        stride=torch.empty(shape, device="meta").stride(),
    )
    return sharded


def sum_over_shards(parts: Sequence[Tensor], sharded: DTensor) -> list[Tensor]:
    """Sums of fp32 tensors over the workers that share the tensor `sharded`, in one collective."""
    flat = torch.cat([part.flatten() for part in parts])
    with record_function("vim.collectives"):
        dist.all_reduce(flat, group=sharded.device_mesh.get_group(sharded.device_mesh.ndim - 1))
    sums = flat.split([part.numel() for part in parts])
    return [total.view_as(part) for total, part in zip(sums, parts, strict=True)]


def make_mesh(device: str, world: int, shards: int = 0) -> DeviceMesh:
    """All workers [world], or [copies, shards] where `shards` neighbours share a copy (0: all of them).

    Only gradients travel between copies (HSDP), so that weights are gathered inside of a node.

    Raises:
        ConfigError: `shards` does not divide the workers, or is 1.
    """
    if shards == 1:
        raise ConfigError("run.fsdp=1: each worker would have a whole copy; use run.parallel=data, or 0 for one copy")
    if shards in (0, world):
        return init_device_mesh(device, (world,))
    if world % shards:
        raise ConfigError(f"run.fsdp={shards}: does not divide run.workers={world}")
    return init_device_mesh(device, (world // shards, shards), mesh_dim_names=("copy", "shard"))


def begin_microbatch(module: nn.Module, index: int, parts: int) -> None:
    """Before microbatch `index` of `parts` of a network, if it is sharded.

    Several microbatches gather each block's weights once, reduce its gradients once, and hold both in between.
    """
    from torch.distributed.fsdp import FSDPModule

    if isinstance(module, FSDPModule):
        last = index == parts - 1
        module.set_is_last_backward(last)
        module.set_requires_gradient_sync(last)
        module.set_reshard_after_backward(last)
        if index == 0:
            for blocks in (m for m in module.modules() if isinstance(m, nn.ModuleList)):
                for block in blocks:
                    block.set_reshard_after_forward(parts == 1, recurse=False)  # type: ignore[operator]


def apply_fsdp(
    module: nn.Module,
    mesh: DeviceMesh,
    keep: Collection[nn.Parameter] = (),
    dtype: torch.dtype = torch.float32,
) -> None:
    """Shard a network in place: one FSDP group per block (member of a ModuleList), one for the rest.

    All workers must hold the same weights, or none yet, on the meta device. Vectors (biases, norms), which are small,
    and the parameters in `keep` are replicated; their gradients are not averaged here. Build the optimizer afterwards:
    the parameters are replaced.

    Under bf16 the blocks' matrices are gathered in bf16 and their gradients reduced in fp32. Autocast would store every
    cast until the backward pass, and with it the whole network.
    """
    from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

    # A copy on the meta device, for `full_network`.
    memo: dict[int, object] = {id(buffer): buffer.to("meta") for buffer in module.buffers()}
    for parameter in module.parameters():
        memo[id(parameter)] = nn.Parameter(parameter.detach().to("meta"), requires_grad=parameter.requires_grad)
    _skeletons[module] = copy.deepcopy(module, memo)
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


def full_network(module: nn.Module, wanted: bool = True, device: torch.device | None = None) -> nn.Module | None:
    """The network with all of its weights: itself where it is not sharded, else a copy. A collective.

    The copy is gathered one tensor after another onto `device` (by default that of the shards). Workers without
    `wanted` never hold more than one whole tensor and get None.
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
    full = copy.deepcopy(_skeletons[module])
    full.load_state_dict(state, assign=True)
    # Buffers that no state dict holds, such as tables of positions; they are replicated.
    for name, part in module.named_modules():
        for key in part._non_persistent_buffers_set:
            buffer = part._buffers[key]
            full.get_submodule(name)._buffers[key] = None if buffer is None else _full(buffer, device)
    return full


def clip(parameters: Iterable[nn.Parameter], limit: float) -> Tensor:
    """`torch.nn.utils.clip_grad_norm_` where some gradients are sharded: returns and uses the global norm."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    sharded = [g for g in gradients if isinstance(g, DTensor)]
    (squares,) = sum_over_shards([_sum_of_squares([local(g) for g in sharded])], sharded[0])
    norm = (squares + _sum_of_squares([g for g in gradients if not isinstance(g, DTensor)])).sqrt()
    if math.isfinite(limit):
        torch._foreach_mul_([local(g) for g in gradients], (limit / (norm + 1e-6)).clamp(max=1.0))
    return norm


def _full(value: Tensor, device: torch.device | None) -> Tensor:
    """A whole copy on `device` with memory of its own; a collective for a sharded tensor."""
    if isinstance(value, DTensor):
        full: Tensor = value.full_tensor()
        return full.to(device or full.device)
    return value.to(device or value.device, copy=True)


def _sum_of_squares(gradients: list[Tensor]) -> Tensor:
    """Sum of the squares of all elements."""
    if not gradients:
        return torch.zeros(())
    return torch.stack(torch._foreach_norm(gradients)).square().sum()
