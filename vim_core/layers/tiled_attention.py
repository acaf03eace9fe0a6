"""Attention of long sequences on CPU in bf16: products over tiles of the score matrix that fit into the cache.

torch's own kernel multiplies at about a fifth of the rate of oneDNN's products; whole score matrices cost memory and
page faults. Nothing of size [T, T] is stored for the backward pass, which computes the tiles again (Dao et al. 2022,
'FlashAttention', section 3.1, without the running softmax: a tile holds whole rows).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

TILE_SCORES = 1 << 21
"""Scores per tile: three tiles of bf16 are 12 MB."""

TILE_ROWS = 256
"""Rows of a tile under a causal mask, whose columns beyond the last row are never computed."""

TileSpan = tuple[slice, slice]
"""Rows (queries) of a tile and the columns (keys) that they see."""


def _tile_layout(heads: int, tokens: int, causal: bool) -> tuple[int, list[TileSpan]]:
    """Heads per tile, and the span of each tile.

    Without a mask a tile takes whole heads where they fit: then no sums over tiles are needed.
    """
    rows = tokens if not causal and tokens * tokens <= TILE_SCORES else min(TILE_ROWS, tokens)
    starts = range(0, tokens, rows)
    spans = [slice(start, min(start + rows, tokens)) for start in starts]
    seen = [slice(0, span.stop if causal else tokens) for span in spans]
    return max(1, min(heads, TILE_SCORES // (rows * tokens))), list(zip(spans, seen, strict=True))


class _TileBuffer:
    """Memory of the largest tile, reused by every tile."""

    def __init__(self, like: Tensor, heads: int, spans: list[TileSpan]) -> None:
        self.values = like.new_empty(heads * max((rows.stop - rows.start) * seen.stop for rows, seen in spans))

    def cut(self, heads: int, rows: slice, seen: slice) -> Tensor:
        """A contiguous view [heads, rows, columns]."""
        shape = (heads, rows.stop - rows.start, seen.stop)
        return self.values[: shape[0] * shape[1] * shape[2]].view(shape)


def _attention_weights(q: Tensor, k: Tensor, rows: slice, scores: Tensor, out: Tensor, causal: bool) -> Tensor:
    """Attention weights of one tile into `out`; q [h, rows, d], k [h, columns, d]."""
    torch.baddbmm(scores, q, k.transpose(1, 2), beta=0, alpha=q.shape[2] ** -0.5, out=scores)
    if causal:
        diagonal = scores[:, :, rows]
        diagonal += torch.full(diagonal.shape[1:], -torch.inf, dtype=diagonal.dtype).triu_(1)
    return torch.softmax(scores, dim=-1, out=out)


def _chunks(heads: int, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """The same `heads` heads [h, T, d] of one image after another from tensors [B, H, T, d]."""
    for images in zip(*tensors, strict=True):
        yield from zip(*(image.split(heads) for image in images), strict=True)


class _TiledAttention(torch.autograd.Function):
    """Scaled dot-product attention over [B, H, T, d]; the result's memory layout is [B, T, H, d]."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
        q, k, v = q.contiguous(), k.contiguous(), v.contiguous()  # [B, H, T, d]
        out = torch.empty_like(q.transpose(1, 2), memory_format=torch.contiguous_format).transpose(1, 2)
        heads, spans = _tile_layout(q.shape[1], q.shape[2], causal)
        scores, weights = _TileBuffer(q, heads, spans), _TileBuffer(q, heads, spans)
        for own_q, own_k, own_v, own_out in _chunks(heads, q, k, v, out):
            # own_q and the others [h, T, d]; tile [h, rows, columns]
            for rows, seen in spans:
                buffers = [buffer.cut(len(own_q), rows, seen) for buffer in (scores, weights)]
                tile = _attention_weights(own_q[:, rows], own_k[:, seen], rows, buffers[0], buffers[1], causal)
                own_out[:, rows] = torch.bmm(tile, own_v[:, seen])
        ctx.save_for_backward(q, k, v)
        ctx.causal = causal
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        q, k, v = ctx.saved_tensors
        grads = [torch.empty_like(q) for _ in range(3)]
        heads, spans = _tile_layout(q.shape[1], q.shape[2], ctx.causal)
        buffers = [_TileBuffer(q, heads, spans) for _ in range(3)]
        for own in _chunks(heads, q, k, v, gradient, *grads):
            _tile_gradients(own[:3], own[3].contiguous(), own[4:], spans, buffers, ctx.causal)
        return grads[0], grads[1], grads[2], None


def _tile_gradients(
    inputs: tuple[Tensor, ...],
    gradient: Tensor,
    grads: tuple[Tensor, ...],
    spans: list[TileSpan],
    buffers: list[_TileBuffer],
    causal: bool,
) -> None:
    """Gradients of q, k, v [h, T, d] into `grads`."""
    q, k, v = inputs
    scale = q.shape[2] ** -0.5
    # Sums over tiles are taken in fp32: in bf16 each addition would round.
    sums = [torch.zeros(k.shape, dtype=torch.float32) for _ in range(2)] if len(spans) > 1 else []
    for rows, seen in spans:
        scores, weights, slopes = (buffer.cut(len(q), rows, seen) for buffer in buffers)
        # [h, rows, d], [h, columns, d], [h, rows, d]; all scores and weights [h, rows, columns].
        own_q, own_k, own_gradient = q[:, rows], k[:, seen], gradient[:, rows]
        weights = _attention_weights(own_q, own_k, rows, scores, weights, causal)
        torch.bmm(own_gradient, v[:, seen].transpose(1, 2), out=slopes)
        torch.ops.aten._softmax_backward_data.out(slopes, weights, -1, q.dtype, grad_input=scores)
        grads[0][:, rows] = torch.bmm(scores, own_k).mul_(scale)
        to_k, to_v = torch.bmm(scores.transpose(1, 2), own_q), torch.bmm(weights.transpose(1, 2), own_gradient)
        if sums:
            sums[0][:, seen] += to_k
            sums[1][:, seen] += to_v
        else:
            sums = [to_k, to_v]
    grads[1].copy_(sums[0].mul_(scale))
    grads[2].copy_(sums[1])


def tiled_attention(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
    """Scaled dot-product attention over q, k, v [B, H, T, d] on CPU, tile by tile; once differentiable."""
    return _TiledAttention.apply(q, k, v, causal)  # type: ignore[no-any-return, no-untyped-call]
