"""Optimizers and schedules; a schedule is a pure function of the step."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from vim_core.config import OptimConfig


def learning_rate(config: OptimConfig, step: int, steps: int) -> float:
    """Rate of step `step` (from 0) of `steps`: linear warm-up, then constant, cosine or exponential decay.

    The decay runs from max(warmup, decay_start) to the end and reaches `final_lr` there (paper sections 5.1, 5.2).
    """
    if step < config.warmup:
        return config.lr * (step + 1) / config.warmup
    start = max(config.warmup, config.decay_start)
    if config.decay == "constant" or step <= start:
        return config.lr
    progress = min(1.0, (step - start) / max(1, steps - 1 - start))
    if config.decay == "cosine":
        return config.final_lr + (config.lr - config.final_lr) * 0.5 * (1 + math.cos(math.pi * progress))
    return config.lr * math.pow(config.final_lr / config.lr, progress)


def adamw(module: nn.Module, config: OptimConfig) -> torch.optim.AdamW:
    """AdamW over a module; matrices decay, vectors (biases, norms) do not.

    The fused form takes a device flag that makes one update do nothing, see `guarded_step`.
    """
    parameters = [p for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    return torch.optim.AdamW(groups, lr=config.lr, betas=(config.beta1, config.beta2), fused=True)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set every group's learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def clip(parameters: Iterable[nn.Parameter], max_norm: float) -> Tensor:
    """Total gradient norm; gradients are scaled down to `max_norm` where that is positive and exceeded."""
    limit = max_norm if max_norm > 0 else math.inf
    return torch.nn.utils.clip_grad_norm_(list(parameters), limit)


def guarded_step(optimizer: torch.optim.Optimizer, loss: Tensor, norm: Tensor) -> Tensor:
    """Update, unless loss or gradient norm is not finite: then the device skips it (contract 5).

    Returns the flag, 1.0 where the update was skipped.
    """
    skipped = 1.0 - (torch.isfinite(loss.detach()) & torch.isfinite(norm)).float()
    optimizer.found_inf = skipped  # type: ignore[attr-defined]
    optimizer.step()
    return skipped
