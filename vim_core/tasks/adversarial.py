"""The discriminator's side of stage 1: its loss on a batch, and its gradient's weight in the generator."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from vim_core.config import DiscriminatorConfig
from vim_core.distributed.runtimes.base import Runtime
from vim_core.losses.adversarial import LeCam, discriminator_loss, generator_loss, r1_penalty


@dataclass
class DiscriminatorPass:
    """The discriminator's loss on a batch: its terms with their gradients, and the mean logits of both sides."""

    terms: dict[str, Tensor]
    real: Tensor
    fake: Tensor


def adversarial_share(settings: DiscriminatorConfig, step: int) -> float:
    """Share of the adversarial weight at a step: 0 before `ramp_start`, 1 from `ramp_steps` later on."""
    share = 1.0 if settings.ramp_steps == 0 else (step - settings.ramp_start) / settings.ramp_steps
    share = share if step >= settings.ramp_start else 0.0
    return min(1.0, max(0.0, share))


def discriminator_pass(
    judge: nn.Module,
    lecam: LeCam | None,
    settings: DiscriminatorConfig,
    runtime: Runtime,
    step: int,
    images: Tensor,
    fake: Tensor,
) -> DiscriminatorPass:
    """Loss of the discriminator on real images and detached reconstructions [B, 3, S, S]; nothing is updated."""
    with runtime.autocast():
        real_logits, fake_logits = judge(images), judge(fake)
        terms = {"discriminator": 0.5 * discriminator_loss(real_logits, fake_logits)}
    if settings.r1_gamma > 0 and step % settings.r1_every == 0:
        real = images.detach().requires_grad_(True)
        # Lazy regularisation: the penalty of the skipped steps is paid at once (StyleGAN2, section 3.1).
        weight = 0.5 * settings.r1_gamma * settings.r1_every
        terms["r1"] = weight * r1_penalty(per_image(judge(real)), real)
    if lecam is not None:
        terms["lecam"] = lecam.penalty(real_logits, fake_logits)
    return DiscriminatorPass(terms, real_logits.detach().mean(), fake_logits.detach().mean())


def per_image(logits: Tensor) -> Tensor:
    """One logit an image [B]: the mean over its patches, where there are several."""
    return logits if logits.ndim == 1 else logits.flatten(1).mean(1)


def generator_term(judge: nn.Module, weight: Tensor, fake: Tensor) -> Tensor:
    """Non-saturating loss of reconstructions [B, 3, S, S] times a tensor weight; the judge gets no gradient."""
    judge.requires_grad_(False)
    return weight * generator_loss(judge(fake))
