"""Logit-laplace against torch.distributions, its clamp and its normalisation."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.distributions import Laplace, SigmoidTransform, TransformedDistribution

from vim_core.losses.reconstruction import logit_laplace

EPS = 0.1


def raw_output(batch: int = 2, size: int = 3) -> Tensor:
    torch.manual_seed(0)
    return torch.randn(batch, 6, size, size, dtype=torch.float64)


def remapped(images: Tensor) -> Tensor:
    return images * (1 - 2 * EPS) + EPS


def test_logit_laplace_is_finite_at_black_and_white() -> None:
    raw = raw_output().requires_grad_()
    images = torch.stack([torch.zeros(3, 3, 3), torch.ones(3, 3, 3)]).double()
    loss = logit_laplace(raw, images)
    loss.backward()
    assert loss.isfinite()
    assert raw.grad is not None
    assert raw.grad.isfinite().all()


@pytest.mark.parametrize(("mean", "log_scale"), [(0.3, -0.7), (0.0, -3.0)])
def test_density_integrates_to_one(mean: float, log_scale: float) -> None:
    count = 40_000
    x = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    raw = torch.tensor([mean] * 3 + [log_scale] * 3, dtype=torch.float64).view(6, 1, 1)
    images = ((x - EPS) / (1 - 2 * EPS)).view(count, 1, 1, 1).expand(count, 3, 1, 1)
    density = torch.vmap(lambda image: torch.exp(-logit_laplace(raw[None], image[None])))(images)
    assert float(density.mean()) == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_log_scale_is_clamped_and_lets_no_gradient_through(sign: float) -> None:
    images = torch.rand(2, 3, 3, 3, dtype=torch.float64)
    at_limit, beyond = raw_output(), raw_output()
    at_limit[:, 3:], beyond[:, 3:] = 7.0 * sign, 200.0 * sign
    beyond.requires_grad_()
    loss = logit_laplace(beyond, images)
    loss.backward()
    torch.testing.assert_close(loss, logit_laplace(at_limit, images))
    assert beyond.grad is not None
    assert beyond.grad[:, 3:].abs().max() == 0
    assert beyond.grad[:, :3].abs().min() > 0


def test_logit_laplace_is_the_log_density_of_a_squashed_laplace() -> None:
    raw, images = raw_output().requires_grad_(), torch.rand(2, 3, 3, 3, dtype=torch.float64)
    with torch.no_grad():
        raw[0, 3:] *= 9  # some scales beyond the clamp
    loss = logit_laplace(raw, images)
    (found,) = torch.autograd.grad(loss, raw)
    log_scale = raw[:, 3:].clamp(-7, 7)
    squashed = TransformedDistribution(Laplace(raw[:, :3], log_scale.exp()), SigmoidTransform())
    density = -squashed.log_prob(remapped(images)).mean()
    torch.testing.assert_close(loss, density)
    (expected,) = torch.autograd.grad(density, raw)
    torch.testing.assert_close(found, expected)
    assert ((raw[:, 3:].abs() > 7) == (found[:, 3:] == 0)).all()
