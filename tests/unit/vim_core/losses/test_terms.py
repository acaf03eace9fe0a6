"""Loss terms against torch.distributions, binary cross-entropy, closed forms and numeric gradients."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Laplace, SigmoidTransform, TransformedDistribution

from vim_core.losses import terms as losses

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


def test_logit_laplace_gradients_are_those_of_the_distribution() -> None:
    raw, images = raw_output().requires_grad_(), torch.rand(2, 3, 3, 3, dtype=torch.float64)
    with torch.no_grad():
        raw[0, 3:] *= 9  # some scales beyond the clamp
    (found,) = torch.autograd.grad(losses.logit_laplace(raw, images), raw)
    log_scale = raw[:, 3:].clamp(-7, 7)
    squashed = TransformedDistribution(Laplace(raw[:, :3], log_scale.exp()), SigmoidTransform())
    (expected,) = torch.autograd.grad(-squashed.log_prob(remapped(images)).mean(), raw)
    torch.testing.assert_close(found, expected)
    assert ((raw[:, 3:].abs() > 7) == (found[:, 3:] == 0)).all()


def test_best_scale_is_the_mean_distance() -> None:
    # Of a Laplace with known mean the likeliest scale is the mean absolute deviation: there the gradient vanishes.
    torch.manual_seed(1)
    images = torch.rand(1, 3, 8, 8, dtype=torch.float64)
    distance = (torch.logit(remapped(images)) - 0.4).abs().mean()
    raw = torch.full((1, 6, 8, 8), 0.4, dtype=torch.float64)
    log_scale = distance.log().requires_grad_()
    raw = torch.cat([raw[:, :3], log_scale.expand(1, 3, 8, 8)], 1)
    (gradient,) = torch.autograd.grad(losses.logit_laplace(raw, images), log_scale)
    assert float(gradient) == pytest.approx(0, abs=1e-12)


def test_non_saturating_gradient_stays_where_the_discriminator_wins() -> None:
    logits = torch.tensor([-30.0, -2.0, 0.0, 3.0], requires_grad=True)
    losses.generator_loss(logits).backward()
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad, -torch.sigmoid(-logits.detach()) / 4)
    assert float(logits.grad[0]) == pytest.approx(-0.25)


def test_lecam_by_hand() -> None:
    real, fake = torch.tensor([2.0, -1.0, 0.5]), torch.tensor([[-1.0, 0.25], [3.0, 1.0]])
    mean_real, mean_fake = torch.tensor(1.0), torch.tensor(-0.5)
    above = (2.5**2 + 0.0 + 1.0**2) / 3  # relu(real + 0.5)
    below = (2.0**2 + 0.75**2 + 0.0 + 0.0) / 4  # relu(1 - fake)
    assert float(losses.lecam_penalty(real, fake, mean_real, mean_fake)) == pytest.approx(above + below)
    real.requires_grad_()
    losses.lecam_penalty(real, fake, mean_real, mean_fake).backward()
    torch.testing.assert_close(real.grad, torch.tensor([2 * 2.5, 0.0, 2 * 1.0]) / 3)


def test_r1_is_what_finite_differences_say() -> None:
    torch.manual_seed(0)
    convolution = torch.nn.Conv2d(3, 4, 3)
    judge = torch.nn.Sequential(convolution, torch.nn.Softplus(), torch.nn.Flatten(), torch.nn.Linear(16, 1))
    judge.double()
    images = torch.rand(2, 3, 4, 4, dtype=torch.float64).requires_grad_()
    penalty = losses.r1_penalty(judge(images).squeeze(1), images)
    with torch.no_grad():
        step, total = 1e-5, 0.0
        for place in torch.eye(48, dtype=torch.float64).view(48, 3, 4, 4):
            slope = (judge(images + step * place) - judge(images - step * place)) / (2 * step)
            total += float(slope.square().sum())
    assert float(penalty.detach()) == pytest.approx(total / 2, rel=1e-7)
    weight = convolution.weight
    (gradient,) = torch.autograd.grad(penalty, weight)
    bumped = []
    for sign in (1, -1):
        with torch.no_grad():
            weight[1, 2, 0, 1] += sign * step
        bumped.append(float(losses.r1_penalty(judge(images).squeeze(1), images).detach()))
        with torch.no_grad():
            weight[1, 2, 0, 1] -= sign * step
    assert float(gradient[1, 2, 0, 1]) == pytest.approx((bumped[0] - bumped[1]) / (2 * step), rel=1e-6)


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
