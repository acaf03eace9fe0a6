"""Exponential moving average (EMA) of a network's weights."""

from __future__ import annotations

import copy

import torch
from torch import nn

from vim_core.distributed.fsdp import local
from vim_core.optim.masked_adamw import scalar


class Ema:
    """Keeps `shadow`, a copy whose parameters follow the network's with the given decay; buffers are copied.

    The decay is warmed up as min(decay, (1 + n) / (10 + n)), so that early averages forget the initialisation.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network = network
        self.decay = decay
        # On XLA a Python number is part of the compiled program: each step of the warm-up would be a new program.
        self.on_xla = next(network.parameters()).device.type == "xla"
        self.shadow = copy.deepcopy(network).requires_grad_(False).eval()

    @torch.no_grad()
    def copy_weights(self) -> None:
        """Copy the network's weights and buffers, where it had none yet when this copy was made."""
        pairs = [*zip(self.shadow.parameters(), self.network.parameters(), strict=True)]
        for target, source in [*pairs, *zip(self.shadow.buffers(), self.network.buffers(), strict=True)]:
            local(target).copy_(local(source))

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Update the average after step `step` (from 0)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        targets = [local(p.detach()) for p in self.shadow.parameters()]
        sources = [local(p.detach()) for p in self.network.parameters()]
        if self.on_xla:
            weight = scalar(1 - decay, targets[0].device)
            for target, source in zip(targets, sources, strict=True):
                target.add_((source - target) * weight)
        else:
            torch._foreach_lerp_(targets, sources, 1 - decay)
        for target, source in zip(self.shadow.buffers(), self.network.buffers(), strict=True):
            target.copy_(source)
