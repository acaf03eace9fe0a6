"""Eight-bit moments: error bound, no drift, exact zeros, blocks that never cross rows."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from vim_core.optim.int8_moments import LEVELS, block_length, dequantise, quantise


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
    mean = torch.stack([dequantise(*quantise(x, count(step))) for step in range(4096)]).mean(0)
    assert ((mean - x).abs() <= level(x) * 2e-3).all()


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
