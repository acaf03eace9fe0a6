"""The adversarial losses of stage 1: the discriminator's on a batch, and the generator's with its ramp."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from vim_core.config import DiscriminatorConfig
from vim_core.distributed.runtimes.base import Runtime
from vim_core.losses.adversarial import LeCam, discriminator_loss, generator_loss, r1_penalty


@dataclass
class DiscriminatorPass:
    """The discriminator's loss terms on a batch, and its mean logits on real and reconstructed images."""

    terms: dict[str, Tensor]
    real: Tensor
    fake: Tensor


def adversarial_share(settings: DiscriminatorConfig, step: int) -> float:
    """Share of the adversarial weight at a step: 0 before `ramp_start`, 1 from `ramp_steps` later on."""
    share = 1.0 if settings.ramp_steps == 0 else (step - settings.ramp_start) / settings.ramp_steps
    share = share if step >= settings.ramp_start else 0.0
    return min(1.0, max(0.0, share))


def discriminator_pass(
    discriminator: nn.Module,
    lecam: LeCam | None,
    settings: DiscriminatorConfig,
    runtime: Runtime,
    step: int,
    images: Tensor,
    fake: Tensor,
) -> DiscriminatorPass:
    """Loss of the discriminator on real images and detached reconstructions [B, 3, S, S]; nothing is updated."""
    with runtime.autocast():
        # Logits are [B], or [B, h, w] of patches.
        real_logits, fake_logits = discriminator(images), discriminator(fake)
        terms = {"discriminator": 0.5 * discriminator_loss(real_logits, fake_logits)}
    if settings.r1_gamma > 0 and step % settings.r1_every == 0:
        real = images.detach().requires_grad_(True)
        # Lazy regularisation: the weight includes the penalties of the skipped steps (StyleGAN2, section 3.1).
        weight = 0.5 * settings.r1_gamma * settings.r1_every
        terms["r1"] = weight * r1_penalty(per_image(discriminator(real)), real)
    if lecam is not None:
        terms["lecam"] = lecam.penalty(real_logits, fake_logits)
    return DiscriminatorPass(terms, real_logits.detach().mean(), fake_logits.detach().mean())


def per_image(logits: Tensor) -> Tensor:
    """One logit per image [B]: the mean over its patches, if there are several."""
    return logits if logits.ndim == 1 else logits.flatten(1).mean(1)


def generator_term(discriminator: nn.Module, weight: Tensor, fake: Tensor) -> Tensor:
    """Non-saturating loss of reconstructions [B, 3, S, S] times `weight`; the discriminator gets no gradient."""
    discriminator.requires_grad_(False)
    return weight * generator_loss(discriminator(fake))
