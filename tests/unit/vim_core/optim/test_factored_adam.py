"""Factored Adam against its formulas in numpy and transformers' Adafactor; skips, resume, int8 moments."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.support.tiny import InMemory, assert_equal_bits
from vim_core.checkpoint.state_dict import flat_state_dict, restore
from vim_core.config import OptimConfig
from vim_core.errors import ConfigError
from vim_core.optim.factored_adam import LEVELS, FactoredAdam, block_length, dequantise, quantise
from vim_core.optim.optimizers import clip, guarded_step, make_optimizer

MOMENTS = ["fp32", "bf16", "int8"]
SHAPES = [(6, 32), (4, 3, 2, 2), (5,), ()]
Array = np.ndarray


def parameters(seed: int = 0) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES]


def give_gradients(params: list[nn.Parameter], step: int, scale: float = 1.0) -> None:
    generator = torch.Generator().manual_seed(1000 + step)
    for p in params:
        p.grad = torch.randn(p.shape, generator=generator) * scale


def reference(p: Array, gradients: list[Array], lr: float, beta1: float, beta2: float, decay: float, d: float) -> Array:
    """The formulas as written in the module, in float64, for one parameter."""
    shape = p.shape
    matrix = p.ndim >= 2
    w = p.astype(np.float64).reshape(p.shape[0], -1) if matrix else p.astype(np.float64)
    m, v = np.zeros_like(w), np.zeros_like(w)
    r, c = np.zeros(len(w) if matrix else 1), np.zeros(w.shape[-1] if matrix else 1)
    for t, gradient in enumerate(gradients, 1):
        g = gradient.astype(np.float64).reshape(w.shape)
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g**2
        if matrix:
            r = beta2 * r + (1 - beta2) * (g**2).mean(1)
            c = beta2 * c + (1 - beta2) * (g**2).mean(0)
            v = np.outer(r, c) / r.mean()
        u = m / (1 - beta1**t) / (np.sqrt(v / (1 - beta2**t)) + 1e-8)
        u = u / max(1.0, np.sqrt((u**2).mean()) / d) if d else u
        w = (1 - lr * decay) * w - lr * u
        if matrix:
            v = np.zeros_like(w)
    return w.reshape(shape)


@pytest.mark.parametrize("update_clip", [0.0, 0.7])
def test_updates_are_those_of_the_formulas(update_clip: float) -> None:
    params, starts, gradients = parameters(), [p.detach().numpy().copy() for p in parameters()], []
    optimizer = FactoredAdam(params, 1e-2, (0.9, 0.96), weight_decay=0.3, update_clip=update_clip)
    for step in range(5):
        give_gradients(params, step)
        gradients.append([p.grad.numpy().copy() for p in params if p.grad is not None])
        optimizer.step()
    for index, p in enumerate(params):
        expected = reference(starts[index], [g[index] for g in gradients], 1e-2, 0.9, 0.96, 0.3, update_clip)
        np.testing.assert_allclose(p.detach().numpy(), expected, rtol=2e-5, atol=2e-6)


@pytest.mark.slow  # imports transformers
@pytest.mark.parametrize("clip_threshold", [1e9, 1.0])
def test_without_momentum_it_is_adafactor_with_averaged_squares(clip_threshold: float) -> None:
    """transformers' Adafactor at decay_rate -1 averages all squares evenly, as a bias-corrected beta2 near 1 does."""
    from transformers.optimization import Adafactor

    mine, theirs = parameters(), parameters()
    clipped = 0.0 if clip_threshold > 1 else clip_threshold
    optimizer = FactoredAdam(mine, 1e-2, (0.0, 1 - 1e-6), eps=0.0, weight_decay=0.2, update_clip=clipped)
    peer: Any = Adafactor
    adafactor = peer(
        [p.reshape(len(p), -1).detach().requires_grad_() if p.ndim > 2 else p for p in theirs],
        lr=1e-2,
        eps=(1e-30, 1e-3),
        clip_threshold=clip_threshold,
        decay_rate=-1.0,
        weight_decay=0.2,
        scale_parameter=False,
        relative_step=False,
    )
    other = adafactor.param_groups[0]["params"]
    for step in range(8):
        give_gradients(mine, step)
        for p, q in zip(mine, other, strict=True):
            assert p.grad is not None
            q.grad = p.grad.reshape(q.shape).clone()
        optimizer.step()
        adafactor.step()
    for p, q in zip(mine, other, strict=True):
        torch.testing.assert_close(p.flatten(), q.flatten(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("first_moment", "tolerance"), [("bf16", 0.01), ("int8", 0.1)])
def test_short_moments_stay_near_the_exact_ones(first_moment: str, tolerance: float) -> None:
    """The distance walked differs by a small share after 50 steps of noise; int8's bound is `optim_int8`'s."""
    exact, short = parameters(), parameters()
    optimizers = FactoredAdam(exact, 1e-3), FactoredAdam(short, 1e-3, first_moment=first_moment)
    for step in range(50):
        for params, optimizer in zip((exact, short), optimizers, strict=True):
            give_gradients(params, step)
            optimizer.step()
    for p, q, start in zip(exact[:2], short[:2], parameters()[:2], strict=True):
        difference, walked = (p - q).detach(), (p - start).detach()
        assert 0 < float(difference.norm() / walked.norm()) < tolerance
    assert torch.equal(exact[2], short[2])


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(32, 48), nn.LayerNorm(48), nn.Linear(48, 16))


def step(module: nn.Module, optimizer: torch.optim.Optimizer, number: int, scale: float = 1.0) -> float:
    x = torch.randn(16, 32, generator=torch.Generator().manual_seed(number))
    loss = module(x).square().mean() * scale
    module.zero_grad(set_to_none=True)
    loss.backward()
    for group in optimizer.param_groups:
        group["lr"] = 1e-3 * (number + 1)
    return float(guarded_step(optimizer, loss, clip(module.parameters(), 1.0)))


def everything(module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in flat_state_dict({"m": module}, {"o": optimizer}).items()}


@pytest.mark.parametrize("first_moment", MOMENTS)
def test_a_skipped_step_leaves_every_bit(first_moment: str) -> None:
    config = OptimConfig(kind="factored", first_moment=first_moment, update_clip=1.0)
    module = network()
    optimizer = make_optimizer(module, config)
    assert step(module, optimizer, 0) == 0
    before = everything(module, optimizer)
    for number, scale in ((1, torch.nan), (2, torch.inf)):
        assert step(module, optimizer, number, scale) == 1
        assert_equal_bits(everything(module, optimizer), before)
    assert step(module, optimizer, 3) == 0
    after = everything(module, optimizer)
    assert all(not torch.equal(after[name], before[name]) for name in after)


@pytest.mark.parametrize("first_moment", MOMENTS)
def test_restored_equals_uninterrupted(first_moment: str) -> None:
    config = OptimConfig(kind="factored", first_moment=first_moment)
    whole = network()
    optimizer = make_optimizer(whole, config)
    for number in range(6):
        if number == 3:
            saved = everything(whole, optimizer)
        step(whole, optimizer, number)
    resumed = network()
    again = make_optimizer(resumed, config)
    restore(InMemory(saved), {"m": resumed}, {"o": again})
    assert_equal_bits(everything(resumed, again), saved)
    for number in range(3, 6):
        step(resumed, again, number)
    assert_equal_bits(everything(resumed, again), everything(whole, optimizer))


def test_state_of_another_moment_is_refused() -> None:
    module = network()
    saved = make_optimizer(module, OptimConfig(kind="factored"))
    step(module, saved, 0)
    other = make_optimizer(module, OptimConfig(kind="factored", first_moment="int8"))
    with pytest.raises(ValueError, match=r"optimizer state 0: saved .*float32.* expected .*int8"):
        other.load_state_dict(saved.state_dict())


def test_the_host_never_waits_for_a_number() -> None:
    """On the meta device nothing has a value: a step that asked for one would fail there."""
    params = [nn.Parameter(torch.zeros(shape, device="meta")) for shape in SHAPES]
    optimizer = FactoredAdam(params, update_clip=1.0, first_moment="int8")
    optimizer.found_inf = torch.zeros((), device="meta")  # type: ignore[attr-defined]
    for p in params:
        p.grad = torch.zeros_like(p)
    optimizer.step()
    assert optimizer.state[params[0]]["exp_avg"].dtype == torch.int8


def test_gradients_of_zero_and_of_tiny_size_are_no_trouble() -> None:
    params = parameters()
    optimizer = FactoredAdam(params, 1e-2, first_moment="int8")
    for p in params:
        p.grad = torch.zeros_like(p)
    optimizer.step()
    assert all(torch.equal(p, q) for p, q in zip(params, parameters(), strict=True))
    small = [nn.Parameter(torch.zeros(4, 8))]
    optimizer = FactoredAdam(small, 1e-2, eps=0.0)
    small[0].grad = torch.full((4, 8), 1e-15)
    optimizer.step()
    torch.testing.assert_close(small[0].detach(), torch.full((4, 8), -1e-2), rtol=1e-3, atol=0)


def test_what_it_cannot_train_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"needs fp32 weights, found torch.bfloat16 \[2, 2\]"):
        FactoredAdam([nn.Parameter(torch.zeros(2, 2, dtype=torch.bfloat16))])
    p = nn.Parameter(torch.zeros(3, 2))
    with pytest.raises(ValueError, match=r"1 parameters have no gradient, such as \[3, 2\]"):
        FactoredAdam([p]).step()


def count(step: int) -> Tensor:
    return torch.tensor(float(step))


def level(x: Tensor) -> Tensor:
    """The size of one level at every element [R, C]."""
    length = block_length(x.shape[1])
    largest = x.reshape(len(x), -1, length).abs().amax(2, keepdim=True)
    return (largest / LEVELS).expand(-1, -1, length).flatten(1)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 10_000),
    st.integers(1, 5),
    st.sampled_from([1, 3, 16, 24, 257, 512, 768]),
    st.floats(1e-30, 1e30),
    st.integers(0, 500_000),
)
def test_an_element_moves_by_less_than_one_level(seed: int, rows: int, columns: int, size: float, step: int) -> None:
    x = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)) * size
    levels, scales = quantise(x, count(step))
    assert levels.dtype == torch.int8
    assert scales.shape == (rows, columns // block_length(columns))
    back = dequantise(levels, scales)
    assert ((back - x).abs() <= level(x) * 1.0001).all()
    assert (back.abs() <= x.abs().amax() * 1.0001).all()


def test_errors_do_not_add_up_over_the_steps() -> None:
    x = torch.randn(3, 256, generator=torch.Generator().manual_seed(0))
    mean = torch.stack([dequantise(*quantise(x, count(step))) for step in range(512)]).mean(0)
    assert ((mean - x).abs() <= level(x) * 1e-2).all()


def test_zeros_stay_zero_and_a_moment_without_gradient_fades() -> None:
    x = torch.zeros(2, 32)
    x[0] = torch.linspace(-1, 1, 32)
    for step in range(400):
        levels, scales = quantise(x, count(step))
        x = dequantise(levels, scales)
        assert not x[1].any()
        x = x * 0.9
        x[0, 0] = 1.0  # one element keeps the block's scale up
    # Rounding to the nearest would leave up to four levels for ever.
    assert not x[0, 1:].any()


def test_stored_moment_follows_the_exact_one_within_ten_levels() -> None:
    noise = torch.Generator().manual_seed(0)
    exact, stored = torch.zeros(4, 256), quantise(torch.zeros(4, 256), count(0))
    largest = torch.zeros(4, 1)
    for step in range(1, 200):
        gradient = torch.randn(4, 256, generator=noise)
        exact = torch.lerp(exact, gradient, 0.1)
        moment = torch.lerp(dequantise(*stored), gradient, 0.1)
        largest = torch.maximum(largest, level(moment)[:, :1])
        stored = quantise(moment, count(step))
        assert ((dequantise(*stored) - exact).abs() <= largest * 10).all()
    error = dequantise(*stored) - exact
    assert float(error.square().mean().sqrt() / exact.square().mean().sqrt()) < 0.03
    assert float(error.mean().abs()) < float(largest.mean()) / 10


@pytest.mark.parametrize(
    ("columns", "length"), [(8192, 256), (1536, 256), (300, 150), (16, 16), (10, 10), (8191, 8191), (514, 257 * 2)]
)
def test_blocks_divide_the_row(columns: int, length: int) -> None:
    assert block_length(columns) == length
