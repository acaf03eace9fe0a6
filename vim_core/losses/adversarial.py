"""Adversarial losses of stage 1 and their regularisers: logistic loss, R1, LeCam (paper section 3.3)."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vim_core.config import DiscriminatorConfig, LeCamConfig
from vim_core.distributed.runtimes.base import Runtime
from vim_core.optim.masked_adamw import scalar


def generator_loss(fake_logits: Tensor) -> Tensor:
    """Non-saturating logistic loss of the generator."""
    return F.softplus(-fake_logits).mean()


def discriminator_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """Logistic loss of the discriminator."""
    return F.softplus(-real_logits).mean() + F.softplus(fake_logits).mean()


def adversarial_share(settings: DiscriminatorConfig, step: int) -> float:
    """Share of the adversarial weight at a step: 0 before `ramp_start`, 1 from `ramp_steps` later on."""
    share = 1.0 if settings.ramp_steps == 0 else (step - settings.ramp_start) / settings.ramp_steps
    share = share if step >= settings.ramp_start else 0.0
    return min(1.0, max(0.0, share))


Judge = Callable[[Tensor], Tensor]
"""A discriminator's forward pass of images [B, 3, S, S], as `Runtime.convolve` gives it."""


def generator_term(discriminator: nn.Module, judge: Judge, weight: Tensor, fake: Tensor) -> Tensor:
    """Non-saturating loss of reconstructions [B, 3, S, S] times `weight`; the discriminator gets no gradient."""
    discriminator.requires_grad_(False)
    return weight * generator_loss(judge(fake))


def r1_penalty(real_logits: Tensor, images: Tensor) -> Tensor:
    """Mean squared gradient norm of the logits at real images [B, 3, H, W] (Mescheder et al. 2018), without gamma/2.

    The images are in [0, 1]. The same network of the same pixels in [-1, 1], as in StyleGAN2, has half of this gradient
    and a quarter of this penalty, so gamma 10 here is gamma 40 there, and gamma 10 there is 2.5 here.
    """
    (gradient,) = torch.autograd.grad(real_logits.sum(), images, create_graph=True)  # [B, 3, H, W]
    return gradient.square().sum(dim=(1, 2, 3)).mean()


def per_image(logits: Tensor) -> Tensor:
    """One logit per image [B]: the mean over its patches, if there are several."""
    return logits if logits.ndim == 1 else logits.flatten(1).mean(1)


def lecam_penalty(real_logits: Tensor, fake_logits: Tensor, mean_real: Tensor, mean_fake: Tensor) -> Tensor:
    """LeCam regularisation of logits of any shape: mean(relu(real - mean_fake)^2) + mean(relu(mean_real - fake)^2).

    `mean_real` and `mean_fake` are moving averages of the logits, scalars without gradient. This is the form of the
    authors' code; the text of the paper (arXiv 2104.03310) has no relu and so also pulls at logits on the wrong side.
    """
    above, below = F.relu(real_logits - mean_fake), F.relu(mean_real - fake_logits)
    return above.square().mean() + below.square().mean()


class LeCam(nn.Module):
    """LeCam regularisation with its moving averages of real and generated logits, which are checkpointed."""

    real: Tensor
    fake: Tensor

    def __init__(self, config: LeCamConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("real", torch.zeros(()))
        self.register_buffer("fake", torch.zeros(()))

    def penalty(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        """Weighted penalty of logits of any shape against the averages of the steps before."""
        # Copies: the averages move before the backward pass of an accumulated step.
        return self.config.weight * lecam_penalty(real_logits, fake_logits, self.real.clone(), self.fake.clone())

    @torch.no_grad()
    def observe(self, step: int, real: Tensor, fake: Tensor, skipped: Tensor) -> None:
        """Update the averages with the mean logits of the global batch after step `step` (from 0).

        The decay is warmed up as min(decay, (1 + n) / (10 + n)), else the averages would start from zero for 1/decay
        steps. Nothing changes where the flag `skipped` is 1 or the logits are not finite.
        """
        decay = min(self.config.decay, (1 + step) / (10 + step))
        # A tensor, so that the graph stays the same while the decay grows.
        share = scalar(1 - decay, self.real.device)
        unchanged = (skipped > 0) | ~(real.isfinite() & fake.isfinite())
        for average, value in ((self.real, real), (self.fake, fake)):
            average.copy_(torch.where(unchanged, average, average.lerp(value.to(average.dtype), share)))


def discriminator_pass(
    discriminator: nn.Module,
    judge: Judge,
    lecam: LeCam | None,
    settings: DiscriminatorConfig,
    runtime: Runtime,
    step: int,
    images: Tensor,
    fake: Tensor,
) -> tuple[dict[str, Tensor], tuple[Tensor, Tensor]]:
    """The discriminator's loss terms on real images and detached reconstructions [B, 3, S, S]; nothing is updated.

    R1 differentiates the pass twice, which `judge` cannot where it is compiled.

    Returns:
        The terms, and the mean logits on images and on reconstructions.
    """
    with runtime.autocast():
        # Logits are [B], or [B, h, w] of patches.
        real_logits, fake_logits = judge(images), judge(fake)
        terms = {"discriminator": 0.5 * discriminator_loss(real_logits, fake_logits)}
    if settings.r1_gamma > 0 and step % settings.r1_every == 0:
        real = images.detach().requires_grad_(True)
        # Lazy regularisation: the weight includes the penalties of the skipped steps (StyleGAN2, section 3.1).
        weight = 0.5 * settings.r1_gamma * settings.r1_every
        terms["r1"] = weight * r1_penalty(per_image(discriminator(runtime.lay_out(real))), real)
    if lecam is not None:
        terms["lecam"] = lecam.penalty(real_logits, fake_logits)
    return terms, (real_logits.detach().mean(), fake_logits.detach().mean())
