"""Loss terms against torch.distributions, binary cross-entropy, closed forms and numeric gradients."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Laplace, SigmoidTransform, TransformedDistribution

from vim_core import losses

EPS = 0.1


def raw_output(batch: int = 2, size: int = 3) -> Tensor:
    torch.manual_seed(0)
    return torch.randn(batch, 6, size, size, dtype=torch.float64)


def remapped(images: Tensor) -> Tensor:
    return images * (1 - 2 * EPS) + EPS


def test_logit_laplace_is_the_log_density_of_a_squashed_laplace() -> None:
    raw = raw_output()
    images = torch.rand(2, 3, 3, 3, dtype=torch.float64)
    squashed = TransformedDistribution(Laplace(raw[:, :3], raw[:, 3:].exp()), SigmoidTransform())
    expected = -squashed.log_prob(remapped(images)).mean()
    torch.testing.assert_close(losses.logit_laplace(raw, images), expected)


def test_logit_laplace_is_finite_at_black_and_white() -> None:
    raw = raw_output().requires_grad_()
    images = torch.stack([torch.zeros(3, 3, 3), torch.ones(3, 3, 3)]).double()
    loss = losses.logit_laplace(raw, images)
    loss.backward()
    assert loss.isfinite()
    assert raw.grad is not None
    assert raw.grad.isfinite().all()


def test_logit_laplace_gradient_is_the_numeric_one() -> None:
    raw = raw_output(1, 2).requires_grad_()
    images = torch.rand(1, 3, 2, 2, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda r: losses.logit_laplace(r, images), (raw,))


@pytest.mark.parametrize(("mean", "log_scale"), [(0.3, -0.7), (-1.0, -1.5), (0.0, -3.0)])
def test_density_integrates_to_one(mean: float, log_scale: float) -> None:
    count = 40_000
    x = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    raw = torch.tensor([mean] * 3 + [log_scale] * 3, dtype=torch.float64).view(6, 1, 1)
    images = ((x - EPS) / (1 - 2 * EPS)).view(count, 1, 1, 1).expand(count, 3, 1, 1)
    density = torch.vmap(lambda image: torch.exp(-losses.logit_laplace(raw[None], image[None])))(images)
    assert float(density.mean()) == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_log_scale_is_clamped_and_lets_no_gradient_through(sign: float) -> None:
    images = torch.rand(2, 3, 3, 3, dtype=torch.float64)
    at_limit, beyond = raw_output(), raw_output()
    at_limit[:, 3:], beyond[:, 3:] = 7.0 * sign, 200.0 * sign
    beyond.requires_grad_()
    loss = losses.logit_laplace(beyond, images)
    loss.backward()
    torch.testing.assert_close(loss, losses.logit_laplace(at_limit, images))
    assert beyond.grad is not None
    assert beyond.grad[:, 3:].abs().max() == 0
    assert beyond.grad[:, :3].abs().min() > 0


def test_adversarial_losses_are_binary_cross_entropies() -> None:
    real, fake = torch.randn(7) * 5, torch.randn(7) * 5
    ones, zeros = torch.ones(7), torch.zeros(7)
    with_logits = F.binary_cross_entropy_with_logits
    torch.testing.assert_close(losses.generator_loss(fake), with_logits(fake, ones))
    expected = with_logits(real, ones) + with_logits(fake, zeros)
    torch.testing.assert_close(losses.discriminator_loss(real, fake), expected)


def test_r1_of_a_linear_discriminator_is_its_squared_weight() -> None:
    weight = torch.randn(3, 4, 4, requires_grad=True)
    images = torch.rand(5, 3, 4, 4, requires_grad=True)
    penalty = losses.r1_penalty((images * weight).sum(dim=(1, 2, 3)), images)
    torch.testing.assert_close(penalty, weight.square().sum())
    penalty.backward()
    assert weight.grad is not None
    torch.testing.assert_close(weight.grad, 2 * weight.detach())


def test_next_token_loss_of_ignorance_is_the_log_of_the_vocabulary() -> None:
    codes = torch.randint(0, 8, (3, 5))
    assert losses.bits(float(losses.next_token_loss(torch.zeros(3, 5, 8), codes))) == pytest.approx(3.0)
    sure = F.one_hot(codes, 8) * 50.0
    assert float(losses.next_token_loss(sure, codes)) == pytest.approx(0.0, abs=1e-6)
    assert losses.bits(math.log(2)) == pytest.approx(1.0)
