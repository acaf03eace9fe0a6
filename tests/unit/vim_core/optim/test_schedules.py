"""Laws of the learning rate: monotone, without jumps, pure, and the paper's closed forms (sections 5.1, 5.2)."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vim_core.config import OptimConfig
from vim_core.optim.optimizers import learning_rate


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
