"""The split of a training over chips, and the bytes of a network that are on one of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from vim_core.distributed import spmd
from vim_core.distributed.spmd import DATA, FSDP, Spec
from vim_core.errors import ConfigError
from vim_core.optim.optimizers import make_optimizer
from vim_core.planning.networks import PlannedNetwork


@dataclass(frozen=True)
class Layout:
    """The split of networks and batches over chips.

    Attributes:
        way: 'xla' (rules of `distributed.spmd`), 'fsdp' (FSDP2: by rows) or 'data' (a copy on each chip).
        chips: chips that share the batch.
        shards: chips that share one copy of the networks.
    """

    way: str
    chips: int
    shards: int

    @property
    def sizes(self) -> dict[str, int]:
        """Chips along each axis of the mesh."""
        return {DATA: self.chips // self.shards, FSDP: self.shards}

    def specs(self, network: PlannedNetwork) -> dict[str, Spec]:
        """The axis that splits each dimension of each parameter, by the parameter's name."""
        named = dict(network.module.named_parameters())
        if self.way == "xla" and network.split:
            return spmd.specs_of(network.module)
        whole: dict[str, Spec] = {name: (None,) * p.ndim for name, p in named.items()}
        if self.way != "fsdp" or not network.split or network.replicated_in_fsdp:
            return whole
        # as `parallel.split` does: vectors and parameters that a task keeps whole are not sharded
        rows = {name for name, p in named.items() if p.ndim >= 2 and name not in network.unsharded}
        return whole | {name: (FSDP, *(None,) * (named[name].ndim - 1)) for name in rows}

    def elements(self, shape: Sequence[int], spec: Spec) -> int:
        """Values of a tensor on one chip, the largest part where it does not come out even."""
        return math.prod(-(-size // self.sizes[axis]) if axis else size for size, axis in zip(shape, spec, strict=True))

    def parameters(self, network: PlannedNetwork, trained: bool = False) -> int:
        """Values of a network on one chip: all, or only those that learn."""
        specs = self.specs(network)
        named = network.module.named_parameters()
        return sum(self.elements(p.shape, specs[name]) for name, p in named if p.requires_grad or not trained)

    def buffers(self, network: PlannedNetwork) -> float:
        """Bytes of a network's buffers, which are never split."""
        return float(sum(value.numel() * value.element_size() for value in network.module.buffers()))

    def slots(self, network: PlannedNetwork) -> float:
        """Bytes of the optimizer's state on one chip."""
        if network.optim is None:
            return 0.0
        specs = self.specs(network)
        if network.optim.kind == "adamw":
            learning = [p for p in network.module.parameters() if p.requires_grad]
            # two moments in fp32, and a step counter per tensor
            return 8.0 * self.parameters(network, trained=True) + 4.0 * len(learning)
        with torch.device("meta"):
            optimizer = make_optimizer(network.module, network.optim)
        by_tensor: dict[torch.Tensor, Spec] = {p: specs[name] for name, p in network.module.named_parameters()}
        # row and column means follow the sharding of XLA only; FSDP2 refuses this optimizer
        slots = spmd.optimizer_specs(optimizer, by_tensor, self.sizes)
        return float(sum(self.elements(slot.shape, spec) * slot.element_size() for slot, spec in slots))

    def largest(self, network: PlannedNetwork) -> int:
        """Values of the largest tensor on one chip, which bounds the temporaries of an update tensor by tensor."""
        specs = self.specs(network)
        return max((self.elements(p.shape, specs[n]) for n, p in network.module.named_parameters()), default=0)

    def uneven(self, network: PlannedNetwork) -> str:
        """The error by which the rules of XLA refuse this network on so many chips; empty for none."""
        if self.way != "xla" or not network.split:
            return ""
        shapes = {name: tuple(p.shape) for name, p in network.module.named_parameters()}
        try:
            spmd.check_divisible(shapes, self.specs(network), self.sizes)
        except ConfigError as error:
            return str(error)
        return ""


def largest_block(module: nn.Module) -> int:
    """Values of the matrices of the largest block, which are gathered while it computes."""
    blocks = [b for m in module.modules() if isinstance(m, nn.ModuleList) for b in m]
    return max((sum(p.numel() for p in b.parameters() if p.ndim >= 2) for b in blocks), default=0)
