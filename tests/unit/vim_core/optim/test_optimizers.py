"""Laws and closed forms of schedules, AdamW against torch's plain one, the guard against broken steps, the average."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from vim_core.config import OptimConfig
from vim_core.optim.factored_adam import FactoredAdam
from vim_core.optim.masked_adamw import MaskedAdamW
from vim_core.optim.optimizers import Ema, clip, guarded_step, learning_rate, make_optimizer


@st.composite
def schedules(draw: st.DrawFn) -> tuple[OptimConfig, int]:
    """A schedule that warms up and begins to decay before its last step, and its number of steps."""
    steps = draw(st.integers(3, 2000))
    warmup = draw(st.integers(0, steps - 2))
    start = draw(st.integers(0, steps - 2))
    lr = draw(st.floats(1e-6, 1.0))
    final = lr * draw(st.floats(1e-3, 1.0))
    decay = draw(st.sampled_from(["cosine", "exponential", "constant"]))
    return OptimConfig(lr=lr, final_lr=final, warmup=warmup, decay=decay, decay_start=start), steps


@given(schedules())
def test_it_rises_then_falls_and_stays_within_its_bounds(given: tuple[OptimConfig, int]) -> None:
    config, steps = given
    rates = [learning_rate(config, step, steps) for step in range(steps)]
    rising, rest = rates[: config.warmup], rates[config.warmup :]
    assert rising == sorted(rising)
    assert all(a < b for a, b in pairwise(rising))
    slack = 1 + 1e-12
    assert all(b <= a * slack for a, b in pairwise(rest))
    assert all(0 < rate <= config.lr * slack for rate in rates)
    assert all(rate >= config.final_lr / slack for rate in rest)
    last = config.lr if config.decay == "constant" else config.final_lr
    assert rates[-1] == pytest.approx(last, rel=1e-9)


@given(schedules())
def test_it_never_jumps(given: tuple[OptimConfig, int]) -> None:
    """No step is larger than the steepest slope of its piece: warm-up, half-cosine, exponential."""
    config, steps = given
    rates = [learning_rate(config, step, steps) for step in range(steps)]
    length = max(1, steps - 1 - max(config.warmup, config.decay_start))
    span, ratio = config.lr - config.final_lr, config.final_lr / config.lr
    steepest = {
        "constant": 0.0,
        "cosine": span * math.pi / 2 / length,
        "exponential": -config.lr * math.log(ratio) / length,
    }
    limit = max(config.lr / config.warmup if config.warmup else 0.0, steepest[config.decay])
    assert all(abs(b - a) <= limit * (1 + 1e-9) + 1e-15 for a, b in pairwise(rates))


def test_stage_one_of_the_paper() -> None:
    """Warm-up of 50,000 to 1e-4, then a half cosine to 5e-5 over the remaining 450,000."""
    config = OptimConfig(lr=1e-4, final_lr=5e-5, warmup=50_000, decay="cosine")
    steps = 500_000
    for step in (0, 1, 25_000, 49_999):
        assert learning_rate(config, step, steps) == pytest.approx(1e-4 * (step + 1) / 50_000, rel=1e-12)
    for step in (50_000, 50_001, 162_500, 275_000, 499_999):
        share = (step - 50_000) / 449_999
        expected = 7.5e-5 + 2.5e-5 * math.cos(math.pi * share)
        assert learning_rate(config, step, steps) == pytest.approx(expected, rel=1e-12)
    assert learning_rate(config, steps - 1, steps) == pytest.approx(5e-5, rel=1e-12)


def test_stage_two_of_the_paper() -> None:
    """Warm-up of 5,000 to 4.5e-4, constant to step 80,000, then exponential to 1e-5 at the last of 450,000."""
    config = OptimConfig(lr=4.5e-4, final_lr=1e-5, warmup=5_000, decay="exponential", decay_start=80_000)
    steps = 450_000
    assert learning_rate(config, 0, steps) == pytest.approx(4.5e-4 / 5_000)
    assert {learning_rate(config, step, steps) for step in (4_999, 5_000, 40_000, 80_000)} == {4.5e-4}
    for step in (80_001, 200_000, 449_999):
        expected = 4.5e-4 * math.exp(math.log(1e-5 / 4.5e-4) * (step - 80_000) / 369_999)
        assert learning_rate(config, step, steps) == pytest.approx(expected, rel=1e-12)
    # paper.md's figure: a fall of about 1.029e-5 a step
    fall = 1 - learning_rate(config, 100_001, steps) / learning_rate(config, 100_000, steps)
    assert fall == pytest.approx(1.029e-5, rel=1e-3)


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
    optimizer = make_optimizer(mine, config)
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
    optimizer = make_optimizer(module, OptimConfig(lr=1e-2))
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
    optimizer, other = make_optimizer(module, OptimConfig(lr=1e-2)), make_optimizer(fresh, OptimConfig(lr=1e-2))
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


def normed_network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))


def test_average_follows_the_formula_with_warmed_up_decay() -> None:
    model = normed_network()
    ema = Ema(model, decay=0.5)
    expected = model[0].weight.detach().clone()  # type: ignore[index]
    for step in range(12):
        with torch.no_grad():
            model[0].weight.normal_()  # type: ignore[index]
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * model[0].weight.detach()  # type: ignore[index]
        ema.update(step)
        torch.testing.assert_close(ema.shadow[0].weight, expected)  # type: ignore[index]


def test_buffers_are_copied_and_the_network_is_left_alone() -> None:
    model = normed_network().train()
    ema = Ema(model, decay=0.9)
    before = [p.detach().clone() for p in model.parameters()]
    model(torch.randn(8, 3) * 4 + 1)
    ema.update(100)
    for (name, a), b in zip(model.named_buffers(), ema.shadow.buffers(), strict=True):
        assert torch.equal(a, b), name
        assert a.data_ptr() != b.data_ptr()
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert model.training
    assert not ema.shadow.training
    assert not any(p.requires_grad for p in ema.shadow.parameters())


@pytest.mark.parametrize("kind", [MaskedAdamW, FactoredAdam])
def test_a_closure_is_refused(kind: Any) -> None:
    """It would never be called."""
    with pytest.raises(ValueError, match=f"{kind.__name__} takes no closure"):
        kind([nn.Parameter(torch.zeros(2, 2))]).step(lambda: 0.0)
