"""Cross-entropy over many codes without fp32 copies of all logits.

At 4,096 tokens and 8,192 codes torch's way allocates four fp32 matrices of 134 MB a step. Here rows pass in pieces
through the same kernels, forwards and again backwards, so that losses and gradients are torch's to the bit.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

VALUES = 1 << 20
"""Logits a piece: 4 MB in fp32."""


def _pieces(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Rows of logits [N, V] and of what goes with them, some at a time."""
    rows = max(1, VALUES // tensors[0].shape[1])
    return zip(*(tensor.split(rows) for tensor in tensors), strict=True)


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> Tensor:
        parts = [F.log_softmax(piece.float(), dim=1).gather(1, own[:, None]) for piece, own in _pieces(logits, targets)]
        ctx.save_for_backward(logits, targets)
        # torch's own sum over rows, in its order: each row has one class left.
        return F.nll_loss(torch.cat(parts), torch.zeros_like(targets))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        logits, targets = ctx.saved_tensors
        result = torch.empty_like(logits)
        share = -gradient / len(targets)
        for piece, own, out in _pieces(logits, targets, result):
            logs = F.log_softmax(piece.float(), dim=1)
            slope = torch.zeros_like(logs).scatter_(1, own[:, None], share.expand(len(own), 1))
            out.copy_(torch.ops.aten._log_softmax_backward_data(slope, logs, 1, logs.dtype))
        return result, None


def pieced_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy in nats of logits [N, V] and classes int64 [N], in fp32; once differentiable."""
    return _CrossEntropy.apply(logits, targets)  # type: ignore[no-any-return, no-untyped-call]
