"""Reconstruction likelihood of the tokenizer: the logit-laplace distribution (paper section 3.3)."""

from __future__ import annotations

import torch
from torch import Tensor

EPSILON = 0.1
"""Pixels are mapped from [0, 1] into [EPSILON, 1 - EPSILON] before the logit (DALL-E's dVAE, appendix A.3)."""

LOG_SCALE_LIMIT = 7.0
"""Log-scales are clamped to +-7, else early steps overflow."""


def laplace_mean(raw: Tensor) -> Tensor:
    """The mean half [B, 3, H, W] of a six-channel decoder output."""
    return raw[:, :3]


def logit_laplace(raw: Tensor, images: Tensor) -> Tensor:
    """Mean negative log-likelihood per sub-pixel, in nats, of the logit-laplace distribution.

    f(x | mu, b) = exp(-|logit(x) - mu| / b) / (2 b x (1 - x)) on (0, 1).

    Args:
        raw: [B, 6, H, W], three means and three log-scales.
        images: [B, 3, H, W] in [0, 1].
    """
    x = images * (1 - 2 * EPSILON) + EPSILON  # [B, 3, H, W]
    mean, log_scale = laplace_mean(raw), raw[:, 3:].clamp(-LOG_SCALE_LIMIT, LOG_SCALE_LIMIT)
    distance = (torch.logit(x) - mean).abs() * torch.exp(-log_scale)
    return (distance + log_scale + torch.log(2 * x * (1 - x))).mean()
