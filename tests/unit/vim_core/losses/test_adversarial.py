"""Adversarial losses against binary cross-entropy, closed forms and finite differences."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from tests.support.tiny import runtime
from vim_core.config import DiscriminatorConfig
from vim_core.losses.adversarial import discriminator_loss, discriminator_pass, generator_loss, r1_penalty


def test_adversarial_losses_are_binary_cross_entropies() -> None:
    real, fake = torch.randn(7) * 5, torch.randn(7) * 5
    ones, zeros = torch.ones(7), torch.zeros(7)
    with_logits = F.binary_cross_entropy_with_logits
    torch.testing.assert_close(generator_loss(fake), with_logits(fake, ones))
    expected = with_logits(real, ones) + with_logits(fake, zeros)
    torch.testing.assert_close(discriminator_loss(real, fake), expected)


def test_r1_is_what_finite_differences_say() -> None:
    torch.manual_seed(0)
    convolution = torch.nn.Conv2d(3, 4, 3)
    network = torch.nn.Sequential(convolution, torch.nn.Softplus(), torch.nn.Flatten(), torch.nn.Linear(16, 1))
    network.double()
    images = torch.rand(2, 3, 4, 4, dtype=torch.float64).requires_grad_()
    penalty = r1_penalty(network(images).squeeze(1), images)
    with torch.no_grad():
        step, total = 1e-5, 0.0
        for place in torch.eye(48, dtype=torch.float64).view(48, 3, 4, 4):
            slope = (network(images + step * place) - network(images - step * place)) / (2 * step)
            total += float(slope.square().sum())
    assert float(penalty.detach()) == pytest.approx(total / 2, rel=1e-7)
    weight = convolution.weight
    (gradient,) = torch.autograd.grad(penalty, weight)
    bumped = []
    for sign in (1, -1):
        with torch.no_grad():
            weight[1, 2, 0, 1] += sign * step
        bumped.append(float(r1_penalty(network(images).squeeze(1), images).detach()))
        with torch.no_grad():
            weight[1, 2, 0, 1] -= sign * step
    assert float(gradient[1, 2, 0, 1]) == pytest.approx((bumped[0] - bumped[1]) / (2 * step), rel=1e-6)


@pytest.mark.parametrize("step", [16, 17])
def test_r1_of_images_in_0_to_1_is_four_times_that_of_stylegan2s(step: int) -> None:
    """A linear network of pixels in [-1, 1] has the gradient `weight` there, and twice that at pixels in [0, 1]."""
    weight = torch.randn(3 * 4 * 4)

    class Linear(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return (images * 2 - 1).flatten(1) @ weight

    images, fake = torch.rand(2, 2, 3, 4, 4)
    settings = DiscriminatorConfig(r1_gamma=10.0, r1_every=16)
    terms, _ = discriminator_pass(Linear(), Linear(), None, settings, runtime(), step, images, fake)
    theirs = 0.5 * 40.0 * weight.square().sum()  # gamma 40 at [-1, 1]
    assert ("r1" in terms) == (step == 16)
    if step == 16:
        torch.testing.assert_close(terms["r1"], 16 * theirs)
