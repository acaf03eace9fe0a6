"""How many bytes of a tensor lie on one chip, by the way that a training is split over the chips."""

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
from vim_core.planning.networks import Part


@dataclass(frozen=True)
class Layout:
    """`way` is 'xla' (rules of `distributed.spmd`), 'fsdp' (FSDP2: by rows) or 'data' (a whole copy on each chip).

    `shards` chips share one copy; the batch is split over all `chips`.
    """

    way: str
    chips: int
    shards: int

    @property
    def sizes(self) -> dict[str, int]:
        """Chips along each axis of the mesh."""
        return {DATA: self.chips // self.shards, FSDP: self.shards}

    def specs(self, part: Part) -> dict[str, Spec]:
        """How each parameter is split, by its name."""
        named = dict(part.module.named_parameters())
        if self.way == "xla" and part.split:
            return spmd.specs_of(part.module)
        whole: dict[str, Spec] = {name: (None,) * p.ndim for name, p in named.items()}
        if self.way != "fsdp" or not part.split or part.whole_in_fsdp:
            return whole
        # As `parallel.split` does it: vectors and what a task keeps stay whole.
        rows = {name for name, p in named.items() if p.ndim >= 2 and name not in part.kept}
        return whole | {name: (FSDP, *(None,) * (named[name].ndim - 1)) for name in rows}

    def elements(self, shape: Sequence[int], spec: Spec) -> int:
        """Values of a tensor on one chip, the largest part where it does not come out even."""
        return math.prod(-(-size // self.sizes[axis]) if axis else size for size, axis in zip(shape, spec, strict=True))

    def parameters(self, part: Part, trained: bool = False) -> int:
        """Values of a network on one chip: all, or those that learn."""
        specs = self.specs(part)
        named = part.module.named_parameters()
        return sum(self.elements(p.shape, specs[name]) for name, p in named if p.requires_grad or not trained)

    def buffers(self, part: Part) -> float:
        """Bytes of what a network keeps beside its parameters, such as tables; never split."""
        return float(sum(value.numel() * value.element_size() for value in part.module.buffers()))

    def slots(self, part: Part) -> float:
        """Bytes of the optimizer's state on one chip."""
        if part.optim is None:
            return 0.0
        specs = self.specs(part)
        if part.optim.kind == "adamw":
            learning = [p for p in part.module.parameters() if p.requires_grad]
            # Two moments in fp32, and a count of steps for each tensor.
            return 8.0 * self.parameters(part, trained=True) + 4.0 * len(learning)
        with torch.device("meta"):
            optimizer = make_optimizer(part.module, part.optim)
        by_tensor: dict[torch.Tensor, Spec] = {p: specs[name] for name, p in part.module.named_parameters()}
        # Row and column means follow the sharding of XLA only; FSDP2 refuses this optimizer.
        found = spmd.optimizer_specs(optimizer, by_tensor, self.sizes)
        return float(sum(self.elements(slot.shape, spec) * slot.element_size() for slot, spec in found))

    def largest(self, part: Part) -> int:
        """Values of the largest tensor on one chip: what an update one by one needs room for."""
        specs = self.specs(part)
        return max((self.elements(p.shape, specs[n]) for n, p in part.module.named_parameters()), default=0)

    def uneven(self, part: Part) -> str:
        """Why the rules of XLA refuse this network on so many chips; empty where they do not."""
        if self.way != "xla" or not part.split:
            return ""
        shapes = {name: tuple(p.shape) for name, p in part.module.named_parameters()}
        try:
            spmd.check_divisible(shapes, self.specs(part), self.sizes)
        except ConfigError as error:
            return str(error)
        return ""


def largest_block(module: nn.Module) -> int:
    """Values of the matrices of the largest block, which are whole while it computes."""
    blocks = [b for m in module.modules() if isinstance(m, nn.ModuleList) for b in m]
    return max((sum(p.numel() for p in b.parameters() if p.ndim >= 2) for b in blocks), default=0)
