"""Cross-entropy of the next code, on CPUs in chunks of rows so that no fp32 copy of all logits exists.

At 4,096 tokens and 8,192 codes torch allocates four fp32 matrices of 134 MB a step. Here chunks pass through the same
kernels, forwards and again backwards, so that losses and gradients equal torch's to the bit.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

CHUNK = 1 << 20
"""Logits per chunk: 4 MB in fp32."""


def next_token_loss(logits: Tensor, codes: Tensor) -> Tensor:
    """Cross-entropy per token in nats, computed in fp32: logits [B, T, V], codes [B, T]."""
    rows, targets = logits.flatten(0, 1), codes.flatten()
    if logits.device.type == "cpu" and not torch.compiler.is_compiling():
        return chunked_cross_entropy(rows, targets)
    return F.cross_entropy(rows.float(), targets)


def chunked_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy in nats of logits [N, V] and classes int64 [N], in fp32; once differentiable."""
    return _ChunkedCrossEntropy.apply(logits, targets)  # type: ignore[no-any-return, no-untyped-call]


class _ChunkedCrossEntropy(torch.autograd.Function):
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
            logs = F.log_softmax(chunk.float(), dim=1)
            slope = torch.zeros_like(logs).scatter_(1, target[:, None], share.expand(len(target), 1))
            out.copy_(torch.ops.aten._log_softmax_backward_data(slope, logs, 1, logs.dtype))
        return result, None


def _chunks(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Rows of logits [N, V] and of the tensors that belong to them, `CHUNK` logits at a time."""
    rows = max(1, CHUNK // tensors[0].shape[1])
    return zip(*(tensor.split(rows) for tensor in tensors), strict=True)
