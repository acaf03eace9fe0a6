"""A task's network and its average, made where they are to live: whole, or in parts that were never whole."""

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

    Where the workers share one network it is made on the meta device, split, and only then filled: each worker draws
    the same values as by ordinary construction, tensor by tensor, and keeps its rows. So no worker ever has more than
    its part and one tensor. Build the optimizer afterwards.

    Args:
        make: constructs the network; it can be drawn by `meta.materialise`.
        runtime: of this worker.
        decay: of the average; 0 for none.
        keep: parameters that every worker is to have whole.
        load: puts given weights in the place of drawn ones, in place and by rows.

    Raises:
        ConfigError: the device shares networks in another way; whatever `make` and `load` refuse.
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
        _fill(network, ema, runtime, load)
    return network, ema


def build_replicated(make: Callable[[], Network], runtime: Runtime) -> Network:
    """A network that every worker has whole; where they share others it is drawn where it lives, tensor by tensor.

    Args:
        make: constructs the network; it can be drawn by `meta.materialise`.
        runtime: of this worker.
    """
    if not runtime.sharded:
        return make().to(runtime.device)
    with torch.device("meta"):
        network = make()
    materialise(network, runtime.device)
    return network


def _fill(network: Network, ema: Ema | None, runtime: Runtime, load: Callable[[Network], None]) -> None:
    materialise(network, runtime.device)
    load(network)
    if ema is not None:
        allocate(ema.shadow, runtime.device)
        ema.copy_weights()
