"""Attention of long sequences on a compiling device: a block of query rows after another, none of them stored.

XLA has no fused kernel but on TPU: `F.scaled_dot_product_attention` becomes products and a softmax over [B, H, T, T],
which are kept for the backward pass. Here the backward pass computes them again, as in `tiled_attention`. Products are
of fp32 tensors, as torch's own are; a TPU multiplies them in bf16 under its default precision.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

CHUNK_ROWS = 256
"""Query rows [B, H, 256, T] of which scores exist at one time."""


def chunk_bytes(batch: int, heads: int, tokens: int, backward: bool = True) -> int:
    """Bytes of a chunk's temporary tensors for `batch` samples on one device, as `vim_core.planning` counts them.

    All [batch, heads, rows, tokens] in fp32. Forward: scores and weights. Backward: weights, their gradient and that of
    the scores.
    """
    return batch * heads * min(CHUNK_ROWS, tokens) * tokens * 4 * (3 if backward else 2)


def _after(value: Tensor, other: Tensor) -> Tensor:
    """The value [B, H, …] as if it depended on `other` [B, H, t, d]: the same bits where the other is finite.

    Where nothing orders the chunks, a compiler holds all of them at once; where the backward pass's weights are equal
    to those of the forward pass, it keeps the latter. XLA's own barrier prevents neither: it is taken away before equal
    instructions are merged, and the rest scheduled, for the last time.
    """
    return value + 0 * other[:, :, :1, :1].to(value.dtype)


def _weights(q: Tensor, k: Tensor, first: int, causal: bool) -> Tensor:
    """Attention weights [B, H, rows, columns] of the rows `first …` for q [B, H, rows, d] and k [B, H, columns, d]."""
    scores = torch.matmul(q, k.transpose(2, 3)) * q.shape[3] ** -0.5
    if causal:
        row = torch.arange(first, first + q.shape[2], device=q.device)[:, None]
        hidden = torch.arange(k.shape[2], device=q.device) > row  # [rows, columns]
        scores = scores.masked_fill(hidden, -torch.inf)
    weights: Tensor = scores.softmax(-1)
    return weights


def _spans(tokens: int, causal: bool) -> list[tuple[slice, slice]]:
    """Query rows of each chunk, and the keys that they see."""
    ends = [min(start + CHUNK_ROWS, tokens) for start in range(0, tokens, CHUNK_ROWS)]
    return [
        (slice(start, end), slice(0, end if causal else tokens))
        for start, end in zip(range(0, tokens, CHUNK_ROWS), ends, strict=True)
    ]


class _ChunkedAttention(torch.autograd.Function):
    """Scaled dot-product attention over fp32 [B, H, T, d]."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
        ctx.save_for_backward(q, k, v)
        ctx.causal = causal
        parts: list[Tensor] = []
        for rows, seen in _spans(q.shape[2], causal):
            # [B, H, rows, d], [B, H, columns, d], [B, H, columns, d]
            own_q, own_k, own_v = q[:, :, rows].float(), k[:, :, seen].float(), v[:, :, seen].float()
            if parts:
                own_q = _after(own_q, parts[-1])
            with torch.autocast(q.device.type, enabled=False):
                parts.append(torch.matmul(_weights(own_q, own_k, rows.start, causal), own_v).to(q.dtype))
        return torch.cat(parts, dim=2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        q, k, v = ctx.saved_tensors
        scale = q.shape[3] ** -0.5
        to_q: list[Tensor] = []
        to_k, to_v = torch.zeros_like(k, dtype=torch.float32), torch.zeros_like(v, dtype=torch.float32)
        for rows, seen in _spans(q.shape[2], ctx.causal):
            own_q, own_gradient = q[:, :, rows].float(), gradient[:, :, rows].float()  # [B, H, rows, d] each
            own_k, own_v = k[:, :, seen].float(), v[:, :, seen].float()  # [B, H, columns, d] each
            for done in (to_q[-1], to_k, to_v) if to_q else (gradient,):
                own_q, own_gradient = _after(own_q, done), _after(own_gradient, done)
            weights = _weights(own_q, own_k, rows.start, ctx.causal)  # [B, H, rows, columns], as the next two
            slopes = torch.matmul(own_gradient, own_v.transpose(2, 3))
            scores = weights * (slopes - (slopes * weights).sum(-1, keepdim=True)) * scale
            to_q.append(torch.matmul(scores, own_k).to(q.dtype))
            unseen = (0, 0, 0, k.shape[2] - own_k.shape[2])
            to_k = to_k + F.pad(torch.matmul(scores.transpose(2, 3), own_q), unseen)
            to_v = to_v + F.pad(torch.matmul(weights.transpose(2, 3), own_gradient), unseen)
        return torch.cat(to_q, dim=2), to_k.to(k.dtype), to_v.to(v.dtype), None


def chunked_attention(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
    """Scaled dot-product attention over q, k, v [B, H, T, d], chunk by chunk; once differentiable."""
    return _ChunkedAttention.apply(q, k, v, causal)  # type: ignore[no-any-return, no-untyped-call]
