"""Construction of a task's network and its average: on one device, or in shards that are never gathered."""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import nullcontext
from typing import TypeVar

import torch
from torch import nn

from vim_core.distributed.runtimes.base import Runtime
from vim_core.models.meta import allocate, materialise
from vim_core.optim.ema import Ema

Network = TypeVar("Network", bound=nn.Module)


def build_network(
    make: Callable[[], Network],
    runtime: Runtime,
    decay: float = 0.0,
    *,
    keep: Callable[[Network], Collection[nn.Parameter]] = lambda network: (),
    load: Callable[[Network], None] = lambda network: None,
) -> tuple[Network, Ema | None]:
    """A network on the runtime's device and, with a decay, its average; seed torch's generator before.

    With a sharding runtime it is made on the meta device, sharded, and then initialised: each worker draws the same
    values as by ordinary construction, tensor by tensor, and keeps its rows. So no worker ever holds more than its
    shard and one tensor. Build the optimizer afterwards.

    Args:
        make: constructs the network, of modules that `meta.materialise` can initialise.
        runtime: of this worker.
        decay: of the average; 0 for none.
        keep: parameters that every worker holds whole.
        load: overwrites initial weights with given ones, in place and by rows.

    Raises:
        ConfigError: the device shards networks in another way; errors of `make` and `load`.
    """
    with torch.device("meta") if runtime.sharded else nullcontext():
        network = make()
    if not runtime.sharded:
        load(network)
        network.to(runtime.device)
    ema = Ema(network, decay) if decay else None
    for part in (network, ema.shadow) if ema else (network,):
        runtime.apply_fsdp(part, keep(part))  # type: ignore[arg-type]
    if runtime.sharded:
        materialise(network, runtime.device)
        load(network)
        if ema is not None:
            allocate(ema.shadow, runtime.device)
            ema.copy_weights()
    return network, ema


def build_replicated(make: Callable[[], Network], runtime: Runtime) -> Network:
    """A network that every worker holds whole, even if others are sharded; initialised on the device.

    Args:
        make: constructs the network, of modules that `meta.materialise` can initialise.
        runtime: of this worker.
    """
    if not runtime.sharded:
        return make().to(runtime.device)
    with torch.device("meta"):
        network = make()
    materialise(network, runtime.device)
    return network
