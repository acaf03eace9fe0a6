"""Schedules in closed form, AdamW against torch's plain one, and the guard against broken steps."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from vim_core.config import OptimConfig
from vim_core.optim.optimizers import adamw, clip, guarded_step


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 2))


def backward(module: nn.Module, step: int, scale: float = 1.0) -> torch.Tensor:
    x = torch.randn(16, 4, generator=torch.Generator().manual_seed(step))
    loss = module(x).square().mean() * scale
    module.zero_grad(set_to_none=True)
    loss.backward()
    detached: torch.Tensor = loss.detach()
    return detached


def test_updates_equal_the_plain_adamw_with_decay_on_matrices_only() -> None:
    config = OptimConfig(lr=1e-2, beta1=0.8, beta2=0.9, weight_decay=0.3)
    mine, theirs = network(), network()
    groups = [
        {"params": [p for n, p in theirs.named_parameters() if n in ("0.weight", "2.weight")], "weight_decay": 0.3},
        {"params": [p for n, p in theirs.named_parameters() if n not in ("0.weight", "2.weight")], "weight_decay": 0.0},
    ]
    plain = torch.optim.AdamW(groups, lr=1e-2, betas=(0.8, 0.9), foreach=False, fused=False)
    optimizer = adamw(mine, config)
    for step in range(5):
        backward(theirs, step)
        plain.step()
        loss = backward(mine, step)
        assert float(guarded_step(optimizer, loss, clip(mine.parameters(), 0.0))) == 0.0
    for a, b in zip(mine.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)


def copies(module: nn.Module, optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    slots = [value for p in module.parameters() for _, value in sorted(optimizer.state[p].items())]
    return [t.detach().clone() for t in [*module.parameters(), *slots]]


@pytest.mark.parametrize("broken", ["loss", "gradient"])
def test_a_step_that_is_not_finite_changes_nothing(broken: str) -> None:
    module = network()
    optimizer = adamw(module, OptimConfig(lr=1e-2))
    guarded_step(optimizer, backward(module, 0), clip(module.parameters(), 1.0))
    before = copies(module, optimizer)
    loss = backward(module, 1)
    if broken == "loss":
        loss = loss * torch.nan
    else:
        next(module.parameters()).grad.view(-1)[3] = torch.inf  # type: ignore[union-attr]
    assert float(guarded_step(optimizer, loss, clip(module.parameters(), 1.0))) == 1.0
    assert all(torch.equal(a, b) for a, b in zip(before, copies(module, optimizer), strict=True))
    assert float(guarded_step(optimizer, backward(module, 2), clip(module.parameters(), 1.0))) == 0.0
    assert not torch.equal(before[0], next(module.parameters()))


def test_a_broken_first_step_leaves_a_usable_optimizer() -> None:
    module, fresh = network(), network()
    optimizer, other = adamw(module, OptimConfig(lr=1e-2)), adamw(fresh, OptimConfig(lr=1e-2))
    guarded_step(optimizer, backward(module, 0, torch.nan), clip(module.parameters(), 1.0))
    for net, opt in ((module, optimizer), (fresh, other)):
        guarded_step(opt, backward(net, 1), clip(net.parameters(), 1.0))
    assert all(torch.equal(a, b) for a, b in zip(module.parameters(), fresh.parameters(), strict=True))


def test_clip_gives_the_norm_and_scales_only_above_the_limit() -> None:
    module = network()
    backward(module, 0, 100.0)
    gradients = [p.grad.clone() for p in module.parameters() if p.grad is not None]
    norm = torch.cat([g.flatten() for g in gradients]).norm()
    for limit, scale in ((0.0, 1.0), (float(norm) * 2, 1.0), (float(norm) / 4, 0.25)):
        for p, g in zip(module.parameters(), gradients, strict=True):
            p.grad = g.clone()
        torch.testing.assert_close(clip(module.parameters(), limit), norm)
        for p, g in zip(module.parameters(), gradients, strict=True):
            torch.testing.assert_close(p.grad, g * scale)
