"""Optimizers and schedules; a schedule is a pure function of the step."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from vim_core.config import OptimConfig
from vim_core.distributed import fsdp
from vim_core.errors import ConfigError
from vim_core.optim.factored_adam import FactoredAdam
from vim_core.optim.masked_adamw import MaskedAdamW


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


def make_optimizer(module: nn.Module, config: OptimConfig) -> torch.optim.Optimizer:
    """The optimizer that `config.kind` names, over a module's trainable parameters.

    Raises:
        ConfigError: it cannot train these parameters.
    """
    return factored(module, config) if config.kind == "factored" else adamw(module, config)


def _groups(module: nn.Module, config: OptimConfig) -> list[dict[str, Any]]:
    """Matrices decay, vectors (biases, norms) do not."""
    parameters = [p for p in module.parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def adamw(module: nn.Module, config: OptimConfig) -> torch.optim.Optimizer:
    """AdamW over a module; matrices decay, vectors (biases, norms) do not.

    The fused form takes a device flag that makes one update do nothing, see `guarded_step`; XLA has none, there
    `MaskedAdamW` does the same.
    """
    betas, groups = (config.beta1, config.beta2), _groups(module, config)
    if groups[0]["params"][0].device.type == "xla":
        return MaskedAdamW(groups, lr=config.lr, betas=betas)
    return torch.optim.AdamW(_by_split(groups), lr=config.lr, betas=betas, fused=True)


def factored(module: nn.Module, config: OptimConfig) -> FactoredAdam:
    """Adam with factored second moment over a module, decay as in `adamw`.

    Raises:
        ConfigError: the module is sharded by rows; row and column means would be those of a shard.
    """
    if any(isinstance(p, DTensor) for p in module.parameters()):
        raise ConfigError("optim.kind='factored': takes whole parameters; use run.parallel=data or optim.kind=adamw")
    return FactoredAdam(
        _groups(module, config),
        lr=config.lr,
        betas=(config.beta1, config.beta2),
        update_clip=config.update_clip,
        first_moment=config.first_moment,
    )


def _by_split(groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The groups, whole parameters apart from those sharded over the workers: fused updates take either."""
    parts = []
    for group in groups:
        for sharded in (False, True):
            parts.append({**group, "params": [p for p in group["params"] if isinstance(p, DTensor) is sharded]})
    return [part for part in parts if part["params"]]


def set_rate(optimizer: torch.optim.Optimizer, rate: float | Tensor) -> None:
    """Set every group's learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def clip(parameters: Iterable[nn.Parameter], max_norm: float) -> Tensor:
    """Total gradient norm; gradients are scaled down to `max_norm` where that is positive and exceeded."""
    given = list(parameters)
    if any(isinstance(p, DTensor) for p in given):
        return fsdp.clip(given, max_norm if max_norm > 0 else math.inf)
    if max_norm > 0:
        return torch.nn.utils.clip_grad_norm_(given, max_norm)
    # Without a limit torch would still multiply every gradient, by one.
    return torch.nn.utils.get_total_norm([p.grad for p in given if p.grad is not None])


def guarded_step(optimizer: torch.optim.Optimizer, loss: Tensor, norm: Tensor) -> Tensor:
    """Update, unless loss or gradient norm is not finite: then the device skips it (contract 5).

    Returns the flag, 1.0 where the update was skipped.
    """
    skipped = 1.0 - (torch.isfinite(loss.detach()) & torch.isfinite(norm)).float()
    optimizer.found_inf = skipped  # type: ignore[attr-defined]
    optimizer.step()
    return skipped
