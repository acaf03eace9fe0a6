"""Transformer blocks shared by tokenizer and prior, and the layers they are made of.

Shape letters: B batch, T tokens, D model width, H heads.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vim_core.config import StackConfig
from vim_core.errors import ConfigError
from vim_core.layers.tiled_attention import tiled_attention

KeyValue = tuple[Tensor, Tensor]

DROPOUT_LEVELS = 1 << 16
"""Values of the 16-bit numbers that draw a mask."""

SHORT_SEQUENCE = 256
"""Up to this many tokens one explicit product beats tiles on CPU in bf16; both beat torch's kernel (tenfold at 16)."""


def init_weights(module: nn.Module) -> None:
    """ViT's initialisation: truncated normal of 0.02 for weights, zero for biases (the paper does not say).

    Does nothing on the meta device, where the first draw would import torch's compiler, which takes seconds.
    """
    if any(value.is_meta for value in module.parameters(recurse=False)):
        return
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.trunc_normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)


class Linear(nn.Linear):
    """`nn.Linear`, but on the meta device it draws nothing: see `init_weights`."""

    def reset_parameters(self) -> None:
        """Draw weights and biases."""
        if not self.weight.is_meta:
            super().reset_parameters()


class Embedding(nn.Embedding):
    """`nn.Embedding`, but on the meta device it draws nothing: see `init_weights`."""

    def reset_parameters(self) -> None:
        """Draw the table."""
        if not self.weight.is_meta:
            super().reset_parameters()


class LayerNorm(nn.LayerNorm):
    """`nn.LayerNorm` over the last axis, on XLA in single operations.

    torch_xla would make it a batch norm over all tokens, for which every device gathers the whole batch.
    """

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] -> [..., D]."""
        if x.device.type != "xla":
            return super().forward(x)
        y = x.float()
        y = y - y.mean(-1, keepdim=True)
        y = y * torch.rsqrt(y.square().mean(-1, keepdim=True) + self.eps)
        return y * self.weight + self.bias


class Dropout(nn.Module):
    """`nn.Dropout` with another way of drawing the mask on CPU.

    torch draws one Bernoulli number at a time there, which takes longer than a whole transformer layer; four
    16-bit numbers of one 64-bit draw take a tenth of that. The rate is exact to 1 / 65536, the scale matches it.
    torch.compile cannot trace such a draw and generates a fast one of its own. The noise comes from torch's default
    generator, so seeding works as usual.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """Any shape; the identity in evaluation mode."""
        if not self.training or self.rate == 0:
            return x
        if x.device.type != "cpu" or torch.compiler.is_compiling():
            return F.dropout(x, self.rate)
        return x * keep_mask(x, self.rate)

    def extra_repr(self) -> str:
        """For printed models."""
        return f"rate={self.rate}"


def keep_mask(x: Tensor, rate: float) -> Tensor:
    """A mask of x's shape and dtype: 0 with probability `rate`, else 1 / (1 - rate)."""
    dropped = round(rate * DROPOUT_LEVELS)
    words = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(1 << 63), None)
    draws = words.view(torch.int16)[: x.numel()].view(x.shape)
    return (draws >= dropped - DROPOUT_LEVELS // 2).to(x.dtype).mul_(DROPOUT_LEVELS / (DROPOUT_LEVELS - dropped))


def attend(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
    """Scaled dot-product attention over [B, H, T, D / H], by the kernel that is best on the device."""
    tokens = q.shape[2]
    long = tokens > SHORT_SEQUENCE
    if long and q.device.type == "xla":
        from vim_core.distributed.runtimes import xla_attention

        return xla_attention.attention(q, k, v, causal)
    if q.device.type != "cpu" or q.dtype is not torch.bfloat16 or (long and torch.compiler.is_compiling()):
        return F.scaled_dot_product_attention(q, k, v, is_causal=causal)
    if long:
        return tiled_attention(q, k, v, causal)
    bias = torch.zeros(tokens, tokens, dtype=q.dtype)  # [T, T]
    if causal:
        bias = torch.full_like(bias, -torch.inf).triu(1)
    flat = (q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1))  # [B * H, T, D / H] each
    scores = torch.baddbmm(
        bias.expand(len(flat[0]), -1, -1), flat[0], flat[1].transpose(1, 2), alpha=q.shape[3] ** -0.5
    )  # [B * H, T, T]
    return torch.bmm(scores.softmax(-1).to(q.dtype), flat[2]).view_as(q)


def attend_one(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Attention of one query [B, H, 1, D / H] over keys and values [B, H, T, D / H], additive mask [T] or None."""
    if q.device.type != "cpu" or mask is not None:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=None if mask is None else mask[None])
    # A quarter less time than torch's kernel, which copies keys and values to another layout.
    scores = torch.bmm((q * q.shape[3] ** -0.5).flatten(0, 1), k.flatten(0, 1).transpose(1, 2))  # [B * H, 1, T]
    return torch.bmm(scores.softmax(-1), v.flatten(0, 1)).view_as(q)


class Attention(nn.Module):
    """Multi-head self-attention, causal or not; dropout follows the output projection."""

    def __init__(self, dim: int, heads: int, dropout: float = 0.0, causal: bool = False, bias: bool = True) -> None:
        super().__init__()
        self.heads = heads
        self.causal = causal
        self.qkv = Linear(dim, 3 * dim, bias=bias)
        self.out = Linear(dim, dim, bias=bias)
        self.dropout = Dropout(dropout)

    def project_qkv(self, x: Tensor, position: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values [B, H, T, D / H]; `position` of a single token, which subclasses use."""
        batch, tokens, dim = x.shape
        qkv = self.qkv(x).view(batch, tokens, 3, self.heads, dim // self.heads)  # [B, T, 3, H, D / H]
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # [3, B, H, T, D / H]
        return q, k, v

    def _project_out(self, x: Tensor) -> Tensor:
        """[B, H, T, D / H] -> [B, T, D]."""
        merged = x.transpose(1, 2).flatten(2)  # [B, T, D]
        return self.dropout(self.out(merged))  # type: ignore[no-any-return]

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, D] -> [B, T, D]."""
        q, k, v = self.project_qkv(x)
        return self._project_out(attend(q, k, v, self.causal))

    def prefill(self, x: Tensor, cache: KeyValue) -> Tensor:
        """[B, t, D] -> [B, t, D] of the first tokens; writes their keys and values into a static cache, see `step`."""
        q, k, v = self.project_qkv(x)
        for cached, new in zip(cache, (k, v), strict=True):
            cached[:, :, : x.shape[1]] = new
        return self._project_out(attend(q, k, v, self.causal))

    def step(self, x: Tensor, cache: KeyValue, position: Tensor, mask: Tensor | None) -> Tensor:
        """One decoding step with a static cache.

        Args:
            x: the new token's activations [B, 1, D].
            cache: keys and values [B, H, T, D/H], or their first part, written in place at `position`.
            position: index of the new token, int64 [1].
            mask: additive mask over cached positions [T]: 0 where visible, -inf beyond `position`; None where all are.
        """
        q, k, v = self.project_qkv(x, position)
        keys, values = cache
        keys.index_copy_(2, position, k.to(keys.dtype))
        values.index_copy_(2, position, v.to(values.dtype))
        return self._project_out(attend_one(q.to(keys.dtype), keys, values, mask))


class Mlp(nn.Module):
    """Two-layer feed-forward net; dropout on the activation and on the branch's output.

    GELU in its tanh form, as in ViT's own code; or a plain tanh.
    """

    def __init__(self, dim: int, hidden: int, dropout: float = 0.0, tanh: bool = False) -> None:
        super().__init__()
        self.tanh = tanh
        self.up = Linear(dim, hidden)
        self.down = Linear(hidden, dim)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, D] -> [B, T, D]."""
        y = self.up(x)  # [B, T, hidden]
        y = torch.tanh(y) if self.tanh else F.gelu(y, approximate="tanh")
        return self.dropout(self.down(self.dropout(y)))  # type: ignore[no-any-return]


class PreNormBlock(nn.Module):
    """A pre-norm transformer block; subclasses make the four parts."""

    norm1: nn.Module
    attention: Attention
    norm2: nn.Module
    mlp: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, D] -> [B, T, D]."""
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))  # type: ignore[no-any-return]

    def prefill(self, x: Tensor, cache: KeyValue) -> Tensor:
        """[B, t, D] -> [B, t, D] of the first tokens, see `Attention.prefill`."""
        x = x + self.attention.prefill(self.norm1(x), cache)
        return x + self.mlp(self.norm2(x))  # type: ignore[no-any-return]

    def step(self, x: Tensor, cache: KeyValue, position: Tensor, mask: Tensor | None) -> Tensor:
        """One decoding step, see `Attention.step`."""
        x = x + self.attention.step(self.norm1(x), cache, position, mask)
        return x + self.mlp(self.norm2(x))  # type: ignore[no-any-return]


class Block(PreNormBlock):
    """The paper's block: LayerNorm, attention, LayerNorm, MLP with GELU, or with tanh where `tanh` is set."""

    def __init__(self, stack: StackConfig, dropout: float = 0.0, causal: bool = False, tanh: bool = False) -> None:
        super().__init__()
        self.norm1 = LayerNorm(stack.dim)
        self.attention = Attention(stack.dim, stack.heads, dropout, causal)
        self.norm2 = LayerNorm(stack.dim)
        self.mlp = Mlp(stack.dim, stack.mlp, dropout, tanh)


def run_block(block: nn.Module, x: Tensor, recompute: bool) -> Tensor:
    """One block [B, T, D] -> [B, T, D]; `recompute` stores only its input and runs it again in the backward pass.

    Dropout and autocast are those of the first run, so the gradients are the same bits.
    """
    if not (recompute and torch.is_grad_enabled()):
        return block(x)  # type: ignore[no-any-return]
    return recomputed(block.__call__, x)  # type: ignore[no-any-return]


def recomputed(function: Callable[..., Any], *args: Any, noise: bool = True) -> Any:
    """Call a function whose intermediate results are computed again in the backward pass instead of stored.

    Args:
        function: returns a tensor or a tuple of them; a method of the module whose weights it uses.
        args: the first is a tensor.
        noise: the function draws random numbers, which the second run must repeat.
    """
    if args[0].device.type == "xla":
        from vim_core.distributed.runtimes import xla

        return xla.recomputed(function, *args)
    return checkpoint(function, *args, use_reentrant=False, preserve_rng_state=noise)


class TanhHead(nn.Module):
    """The paper's two-layer net with one tanh in the middle, at the output of a stack (section 3.1)."""

    def __init__(self, dim: int, hidden: int, out: int) -> None:
        super().__init__()
        self.up = Linear(dim, hidden)
        self.down = Linear(hidden, out)

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] -> [..., out]."""
        return self.down(torch.tanh(self.up(x)))  # type: ignore[no-any-return]


def sincos_2d(height: int, width: int, dim: int) -> Tensor:
    """Fixed 2D sine-cosine positions [height * width, dim], half of the channels for each axis.

    Raises:
        ConfigError: `dim` is not divisible by 4.
    """
    if dim % 4:
        raise ConfigError(f"quantize.positions='sincos': needs a dim divisible by 4, got {dim}")
    frequency = 10_000.0 ** (-torch.arange(dim // 4, dtype=torch.float64) / (dim // 4))

    def axis(length: int) -> Tensor:
        angle = torch.arange(length, dtype=torch.float64)[:, None] * frequency  # [length, dim / 4]
        return torch.cat([angle.sin(), angle.cos()], dim=1)  # [length, dim / 2]

    rows = axis(height)[:, None].expand(height, width, dim // 2)
    columns = axis(width)[None].expand(height, width, dim // 2)
    return torch.cat([rows, columns], dim=2).reshape(height * width, dim).float()
