"""Loss terms as pure functions of tensors (paper section 3.3 and its sources)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from vim_core.losses.cross_entropy import pieced_cross_entropy

EPSILON = 0.1
"""Pixels are mapped from [0, 1] into [EPSILON, 1 - EPSILON] before the logit (DALL-E's dVAE, appendix A.3)."""

LOG_SCALE_LIMIT = 7.0
"""Log-scales are clamped to +-7, else early steps overflow."""


def laplace_mean(raw: Tensor) -> Tensor:
    """The mean half [B, 3, H, W] of a six-channel decoder output."""
    return raw[:, :3]


def laplace_log_scale(raw: Tensor) -> Tensor:
    """The clamped log-scale half [B, 3, H, W] of a six-channel decoder output."""
    return raw[:, 3:].clamp(-LOG_SCALE_LIMIT, LOG_SCALE_LIMIT)


def logit_laplace(raw: Tensor, images: Tensor) -> Tensor:
    """Mean negative log-likelihood per sub-pixel, in nats, of the logit-laplace distribution.

    f(x | mu, b) = exp(-|logit(x) - mu| / b) / (2 b x (1 - x)) on (0, 1).

    Args:
        raw: [B, 6, H, W], three means and three log-scales.
        images: [B, 3, H, W] in [0, 1].
    """
    x = images * (1 - 2 * EPSILON) + EPSILON
    mean, log_scale = laplace_mean(raw), laplace_log_scale(raw)
    distance = (torch.logit(x) - mean).abs() * torch.exp(-log_scale)
    return (distance + log_scale + torch.log(2 * x * (1 - x))).mean()


def generator_loss(fake_logits: Tensor) -> Tensor:
    """Non-saturating logistic loss of the generator."""
    return F.softplus(-fake_logits).mean()


def discriminator_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """Logistic loss of the discriminator."""
    return F.softplus(-real_logits).mean() + F.softplus(fake_logits).mean()


def entropy_loss(sample_entropy: Tensor, mean: Tensor, diversity: float) -> Tensor:
    """Mean entropy of each latent's assignment less `diversity` times the entropy of the mean assignment [codes].

    Low where every latent is sure of its code and all codes are used (MAGVIT-v2, arXiv 2310.05737).
    """
    shares = mean.clamp_min(torch.finfo(mean.dtype).tiny)
    return sample_entropy + diversity * (mean * shares.log()).sum()


def lecam_penalty(real_logits: Tensor, fake_logits: Tensor, mean_real: Tensor, mean_fake: Tensor) -> Tensor:
    """LeCam regularisation: how far real logits stand above the moving average of generated ones, and the other way.

    mean(relu(real - mean_fake)^2) + mean(relu(mean_real - fake)^2): the form of the authors' code; the text of the
    paper (arXiv 2104.03310) has no relu and so also pulls at logits that lie on the wrong side.

    Args:
        real_logits, fake_logits: of any shape.
        mean_real, mean_fake: scalars without gradient.
    """
    above, below = F.relu(real_logits - mean_fake), F.relu(mean_real - fake_logits)
    return above.square().mean() + below.square().mean()


def r1_penalty(real_logits: Tensor, images: Tensor) -> Tensor:
    """Mean squared gradient norm of the logits at real images [B, 3, H, W] (Mescheder et al. 2018), without gamma/2."""
    (gradient,) = torch.autograd.grad(real_logits.sum(), images, create_graph=True)
    return gradient.square().sum(dim=(1, 2, 3)).mean()


def next_token_loss(logits: Tensor, codes: Tensor) -> Tensor:
    """Cross-entropy per token in nats, computed in fp32: logits [B, T, V], codes [B, T]."""
    rows, targets = logits.flatten(0, 1), codes.flatten()
    if logits.device.type == "cpu" and not torch.compiler.is_compiling():
        return pieced_cross_entropy(rows, targets)
    return F.cross_entropy(rows.float(), targets)


def bits(nats: float) -> float:
    """Nats to bits."""
    return nats / math.log(2)
