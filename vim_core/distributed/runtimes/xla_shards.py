"""Tensors on XLA as the parts on this host's devices, read without the program that `tensor.cpu()` compiles."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

Place = tuple[slice, ...]


def own_parts(tensor: Tensor) -> list[tuple[Tensor, Place]] | None:
    """The parts on this host's devices and their places, of several copies the first.

    None for a tensor that each device has whole. No other host takes part.
    """
    shards = _local_shards(tensor)
    if not shards or shards[0][2] is None:
        return None
    return [(data, place) for copy, data, place in shards if copy == 0 and place is not None]


def to_host(tensor: Tensor, world: int) -> Tensor:
    """A whole copy on the CPU; the other hosts' parts come through gloo, so all of `world` hosts call it together."""
    shards = _local_shards(tensor)
    if not shards:
        return tensor.cpu()
    if shards[0][2] is None:
        return shards[0][1]
    whole = torch.zeros(tensor.shape, dtype=tensor.dtype)
    for copy, data, place in shards:
        if copy == 0 and place is not None:
            whole[place] = data
    if world > 1:
        # Zero where the others' parts are.
        dist.all_reduce(whole.view(torch.uint8) if whole.dtype is torch.bool else whole)
    return whole


def _local_shards(tensor: Tensor) -> list[tuple[int, Tensor, Place | None]]:
    """The number of the copy, values and place of the shards on this host's devices; one without place for a whole one.

    Empty for a tensor that is not marked as split or replicated.
    """
    import torch_xla.core.xla_model as xm
    from torch_xla.distributed.spmd import XLAShardedTensor

    if tensor.device.type != "xla" or not (split := XLAShardedTensor(tensor)).sharding_spec:
        return []
    # torch_xla returns the shards of the last finished step, so wait for the running one.
    xm.wait_device_ops()
    shards: list[tuple[int, Tensor, Place | None]] = []
    for shard in split.local_shards:
        if shard.indices is Ellipsis:
            return [(0, shard.data, None)]
        place = tuple(shard.indices)
        inside = tuple(slice(0, side.stop - side.start) for side in place)
        shards.append((int(shard.replica_id), shard.data[inside], place))
    return shards
