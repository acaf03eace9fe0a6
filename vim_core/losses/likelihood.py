"""Negative log-likelihoods: of pixels under the logit-laplace distribution (paper section 3.3), and of the next code.

The cross-entropy of codes is computed on CPUs in chunks of rows, so that no fp32 copy of all logits exists: at 4,096
tokens and 8,192 codes torch allocates four fp32 matrices of 134 MB a step. Chunks pass through the same kernels,
forwards and again backwards, so that losses and gradients equal torch's to the bit.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

EPSILON = 0.1
"""Pixels are mapped from [0, 1] into [EPSILON, 1 - EPSILON] before the logit (DALL-E's dVAE, appendix A.3)."""

LOG_SCALE_LIMIT = 7.0
"""Log-scales are clamped to +-7, else early steps overflow."""

CHUNK = 1 << 20
"""Logits per chunk of the cross-entropy: 4 MB in fp32."""


def laplace_mean(raw: Tensor) -> Tensor:
    """The mean half [B, 3, H, W] of a six-channel decoder output."""
    return raw[:, :3]


def logit_laplace(raw: Tensor, images: Tensor) -> Tensor:
    """Mean negative log-likelihood per sub-pixel, in nats, of images [B, 3, H, W] in [0, 1].

    f(x | mu, b) = exp(-|logit(x) - mu| / b) / (2 b x (1 - x)) on (0, 1); `raw` [B, 6, H, W] are three means and three
    log-scales.
    """
    x = images * (1 - 2 * EPSILON) + EPSILON  # [B, 3, H, W]
    mean, log_scale = laplace_mean(raw), raw[:, 3:].clamp(-LOG_SCALE_LIMIT, LOG_SCALE_LIMIT)  # [B, 3, H, W] each
    distance = (torch.logit(x) - mean).abs() * torch.exp(-log_scale)  # [B, 3, H, W]
    return (distance + log_scale + torch.log(2 * x * (1 - x))).mean()


def next_token_loss(logits: Tensor, codes: Tensor) -> Tensor:
    """Mean cross-entropy in nats of logits [B, T, V] and codes int64 [B, T], in fp32; on CPUs once differentiable."""
    rows, targets = logits.flatten(0, 1), codes.flatten()  # [N, V], [N]
    if logits.device.type == "cpu" and not torch.compiler.is_compiling():
        return _ChunkedCrossEntropy.apply(rows, targets)  # type: ignore[no-any-return, no-untyped-call]
    return F.cross_entropy(rows.float(), targets)


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Mean cross-entropy of logits [N, V] and classes int64 [N]."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> Tensor:
        # Log-probability of each row's target [n, 1] per chunk.
        picked = [
            F.log_softmax(chunk.float(), dim=1).gather(1, target[:, None]) for chunk, target in _chunks(logits, targets)
        ]
        ctx.save_for_backward(logits, targets)
        # torch's own sum over rows, in its order: a table of one class per row.
        return F.nll_loss(torch.cat(picked), torch.zeros_like(targets))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        logits, targets = ctx.saved_tensors
        result = torch.empty_like(logits)
        share = -gradient / len(targets)
        for chunk, target, out in _chunks(logits, targets, result):
            logs = F.log_softmax(chunk.float(), dim=1)  # [n, V]
            # The gradient at `logs`: not 0 at the targets alone. [n, V]
            slope = torch.zeros_like(logs).scatter_(1, target[:, None], share.expand(len(target), 1))
            out.copy_(torch.ops.aten._log_softmax_backward_data(slope, logs, 1, logs.dtype))
        return result, None


def _chunks(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Rows of logits [N, V] and of the tensors that belong to them, `CHUNK` logits at a time."""
    rows = max(1, CHUNK // tensors[0].shape[1])
    return zip(*(tensor.split(rows) for tensor in tensors), strict=True)
