"""Dropout on CPU: rate, scale, seeding and the gradient's mask."""

from __future__ import annotations

import math

import pytest
import torch

from vim_core.layers.dropout import Dropout, keep_mask

COUNT = 400_003  # not a multiple of four


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_share_of_zeros_is_the_rate_and_the_mean_is_kept(rate: float) -> None:
    torch.manual_seed(0)
    mask = keep_mask(torch.ones(COUNT), rate)
    deviation = math.sqrt(rate * (1 - rate) / COUNT)
    assert abs(float((mask == 0).double().mean()) - rate) < 5 * deviation
    assert abs(float(mask.double().mean()) - 1) < 5 * deviation / (1 - rate)
    torch.testing.assert_close(mask.max(), torch.tensor(1 / (1 - rate)), atol=1e-4, rtol=1e-4)
    assert len(mask.unique()) == 2


def test_neighbours_are_independent() -> None:
    torch.manual_seed(1)
    dropped = keep_mask(torch.ones(COUNT), 0.3) == 0
    for distance in (1, 2, 3, 4):
        both = float((dropped[distance:] & dropped[:-distance]).double().mean())
        assert abs(both - 0.09) < 5 * math.sqrt(0.09 * 0.91 / COUNT)


def test_evaluation_and_rate_zero_are_the_identity() -> None:
    x = torch.randn(5, 7)
    assert Dropout(0.5).eval()(x) is x
    assert Dropout(0.0).train()(x) is x


def test_noise_comes_from_the_default_generator() -> None:
    layer, x = Dropout(0.5).train(), torch.ones(33, 3)

    def seeded(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return layer(x)  # type: ignore[no-any-return]

    first = seeded(3)
    second_draw = layer(x)
    assert torch.equal(first, seeded(3))
    assert not torch.equal(first, second_draw)
    assert not torch.equal(first, seeded(4))


def test_gradient_has_the_mask_of_the_forward_pass() -> None:
    x = torch.ones(64, 9, requires_grad=True)
    y = Dropout(0.4).train()(x)
    y.sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, y.detach())
    assert 0 < int((x.grad == 0).sum()) < x.numel()
