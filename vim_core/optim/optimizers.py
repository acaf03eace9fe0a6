"""Optimizers, schedules (pure functions of the step), guarded updates, and the moving average of weights."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.profiler import record_function

from vim_core.config import OptimConfig
from vim_core.distributed import fsdp
from vim_core.distributed.runtimes.base import Runtime
from vim_core.optim.factored_adam import FactoredAdam
from vim_core.optim.masked_adamw import MaskedAdamW, scalar


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
    """The optimizer that `config.kind` names, over a module's trainable parameters; all support `guarded_step`.

    AdamW is torch's fused one, or on XLA, which has none, `MaskedAdamW`. Matrices have weight decay, vectors (biases,
    norms) none.
    """
    parameters, betas = [p for p in module.parameters() if p.requires_grad], (config.beta1, config.beta2)
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if config.kind == "factored":
        clipping, moment = config.update_clip, config.first_moment
        return FactoredAdam(groups, lr=config.lr, betas=betas, update_clip=clipping, first_moment=moment)
    if parameters[0].device.type == "xla":
        return MaskedAdamW(groups, lr=config.lr, betas=betas)
    # Fused updates take either sharded or whole parameters.
    separate = [
        {**group, "params": [p for p in group["params"] if isinstance(p, DTensor) is sharded]}
        for group in groups
        for sharded in (False, True)
    ]
    groups = [group for group in separate if group["params"]]
    return torch.optim.AdamW(groups, lr=config.lr, betas=betas, fused=True)


def clip(parameters: Iterable[nn.Parameter], max_norm: float) -> Tensor:
    """Total gradient norm; gradients are scaled down to `max_norm` where that is positive and exceeded."""
    params = list(parameters)
    if any(isinstance(p, DTensor) for p in params):
        return fsdp.clip(params, max_norm if max_norm > 0 else math.inf)
    if max_norm > 0:
        return torch.nn.utils.clip_grad_norm_(params, max_norm)
    # Without a limit torch would still multiply every gradient, by one.
    return torch.nn.utils.get_total_norm([p.grad for p in params if p.grad is not None])


def guarded_step(optimizer: torch.optim.Optimizer, loss: Tensor, norm: Tensor) -> Tensor:
    """Optimizer step that the device skips where loss or gradient norm is not finite (contract 5).

    Returns a flag, 1.0 where the step was skipped.
    """
    skipped = 1.0 - (torch.isfinite(loss.detach()) & torch.isfinite(norm)).float()
    optimizer.found_inf = skipped  # type: ignore[attr-defined]
    optimizer.step()
    return skipped


class Update(NamedTuple):
    """One optimizer step, the same on every worker; scalars are on the device.

    loss: mean over the workers. gradient_norm: before clipping. learning_rate: of this step. skipped: 1.0 where nothing
    was updated. nonfinite: [terms + 2], positive where a term, the loss or the gradient norm was not finite.
    """

    loss: Tensor
    gradient_norm: Tensor
    learning_rate: float
    skipped: Tensor
    nonfinite: Tensor


def update(
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    config: OptimConfig,
    runtime: Runtime,
    step: int,
    steps: int,
    loss: Tensor,
    terms: Sequence[Tensor] = (),
) -> Update:
    """Update a network by the gradients of its backward passes, unless they or `loss` are not finite on any worker.

    Gradients are averaged over the workers and clipped, and the learning rate is set to that of step `step` of `steps`.

    Args:
        module, optimizer, config: the network, whose gradients are at hand, and its optimizer, made with `config`.
        runtime: gives the collectives.
        step, steps: number of the step, from 0, and steps of the whole training.
        loss: this worker's, a scalar without gradient.
        terms: this worker's scalars that `loss` was made of, to tell which one is not finite.
    """
    runtime.average_gradients(module)
    with record_function("vim.optimizer"):
        norm = clip(module.parameters(), config.clip_norm)
    rate = learning_rate(config, step, steps)
    for group in optimizer.param_groups:
        group["lr"] = rate
    values = torch.stack([loss, *terms])
    # In one collective: the loss, and the share of workers with a term that is not finite. [1 + terms]
    shared = runtime.mean(torch.cat([values[:1], (~values[1:].isfinite()).to(values.dtype)]))
    with record_function("vim.optimizer"):
        skipped = guarded_step(optimizer, shared[0], norm)
    results = torch.stack([~shared[0].isfinite(), ~norm.isfinite()]).to(values.dtype)  # [2]
    return Update(shared[0], norm, rate, skipped, torch.cat([shared[1:], results]) if terms else results)


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
            fsdp.local(target).copy_(fsdp.local(source))

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Update the average after step `step` (from 0)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        targets = [fsdp.local(p.detach()) for p in self.shadow.parameters()]
        sources = [fsdp.local(p.detach()) for p in self.network.parameters()]
        if self.on_xla:
            weight = scalar(1 - decay, targets[0].device)
            for target, source in zip(targets, sources, strict=True):
                target.add_((source - target) * weight)
        else:
            torch._foreach_lerp_(targets, sources, 1 - decay)
        for target, source in zip(self.shadow.buffers(), self.network.buffers(), strict=True):
            target.copy_(source)
