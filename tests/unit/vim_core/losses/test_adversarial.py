"""Adversarial losses against binary cross-entropy, closed forms and finite differences."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from vim_core.losses.adversarial import discriminator_loss, generator_loss, r1_penalty


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
