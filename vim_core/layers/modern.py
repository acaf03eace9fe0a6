"""The prior's modern block: RMSNorm, SwiGLU, rotary positions over rows and columns, normalised queries and keys.

Shape letters: B batch, T tokens, D model width, H heads. Nothing here is in the paper; the parts are those of later
autoregressive image models (LlamaGen, arXiv 2406.06525; QK-norm: arXiv 2302.05442).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vim_core.config import StackConfig
from vim_core.errors import ConfigError
from vim_core.layers.transformer import Attention, Dropout, Linear, PreNormBlock

ROPE_BASE = 10_000.0


class RMSNorm(nn.Module):
    """Divides by the root mean square over the last axis, in fp32 whatever the surrounding precision."""

    def __init__(self, dim: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.empty(dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """All gains one."""
        nn.init.ones_(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] -> [..., D] in x's dtype."""
        y = x.float()
        y = y * torch.rsqrt(y.square().mean(-1, keepdim=True) + self.eps)
        return (y * self.weight).to(x.dtype)


def rope_angles(grid: tuple[int, int], width: int) -> Tensor:
    """Rotation angles [1 + T, width / 2] in fp64 of the pairs of a head's channels: class token, then codes.

    The first half of the pairs rotates by the row, the second by the column. The class token is at (0, 0) and is not
    rotated; the code in row r and column c is at (r + 1, c + 1), so no two tokens share a position.
    """
    pairs = width // 4
    frequency = ROPE_BASE ** (-torch.arange(pairs, dtype=torch.float64) / pairs)  # [width / 4]
    code = torch.arange(grid[0] * grid[1])  # [T]
    position = torch.stack([code // grid[1], code % grid[1]], dim=1) + 1  # [T, 2]
    position = torch.cat([torch.zeros_like(position[:1]), position])  # [1 + T, 2]
    return (position[:, :, None] * frequency).flatten(1)  # [1 + T, 2, width / 4] -> [1 + T, width / 2]


class Rotary(nn.Module):
    """Rotates queries and keys by their token's position in the grid, so that products depend on the offset alone.

    Raises:
        ConfigError: the head's width is not divisible by 4.
    """

    cos: Tensor
    sin: Tensor

    def __init__(self, grid: tuple[int, int], width: int) -> None:
        super().__init__()
        if width % 4:
            raise ConfigError(f"prior.variant='modern': needs heads of a width divisible by 4, got {width}")
        self.grid = grid
        self.width = width
        size = 1 + grid[0] * grid[1], width // 2
        self.register_buffer("cos", torch.empty(size), persistent=False)
        self.register_buffer("sin", torch.empty(size), persistent=False)
        self.fill_buffers()

    def fill_buffers(self) -> None:
        """Compute the tables anew; does nothing on the meta device."""
        if self.cos.is_meta:
            return
        angles = rope_angles(self.grid, self.width)
        self.cos.copy_(angles.cos())
        self.sin.copy_(angles.sin())

    def forward(self, x: Tensor, position: Tensor | None = None) -> Tensor:
        """Queries or keys [B, H, T, D / H] of the first T tokens, or of the one at `position` (int64 [1])."""
        if position is None:
            cos, sin = self.cos[: x.shape[2]], self.sin[: x.shape[2]]  # [T, D / H / 2]
        else:
            cos, sin = self.cos.index_select(0, position), self.sin.index_select(0, position)
        a, b = x.float().chunk(2, dim=-1)  # the pairs' components, [B, H, T, D / H / 2] each
        return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1).to(x.dtype)


class RotaryAttention(Attention):
    """Causal attention over normalised and rotated queries and keys, without biases."""

    def __init__(self, stack: StackConfig, dropout: float, rotary: Rotary) -> None:
        super().__init__(stack.dim, stack.heads, dropout, causal=True, bias=False)
        self.query_norm = RMSNorm(stack.dim // stack.heads)
        self.key_norm = RMSNorm(stack.dim // stack.heads)
        self.rotary = rotary

    def project_qkv(self, x: Tensor, position: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values [B, H, T, D / H], queries and keys normalised and rotated."""
        q, k, v = super().project_qkv(x)
        return self.rotary(self.query_norm(q), position), self.rotary(self.key_norm(k), position), v


def swiglu_width(mlp: int) -> int:
    """Hidden width whose three matrices have the parameters of two of width `mlp`: two thirds, to the nearest 64.

    Widths under 768 are rounded to 8.
    """
    step = 64 if mlp >= 768 else 8
    return max(step, round(mlp * 2 / 3 / step) * step)


class SwiGlu(nn.Module):
    """Gated feed-forward net; dropout on the activation and on the branch's output."""

    def __init__(self, dim: int, mlp: int, dropout: float = 0.0) -> None:
        super().__init__()
        hidden = swiglu_width(mlp)
        self.gate = Linear(dim, hidden, bias=False)
        self.up = Linear(dim, hidden, bias=False)
        self.down = Linear(hidden, dim, bias=False)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, D] -> [B, T, D]."""
        return self.dropout(self.down(self.dropout(F.silu(self.gate(x)) * self.up(x))))  # type: ignore[no-any-return]


class ModernBlock(PreNormBlock):
    """The modern variant's block: RMSNorm, rotary attention, RMSNorm, gated net."""

    def __init__(self, stack: StackConfig, dropout: float, rotary: Rotary) -> None:
        super().__init__()
        self.norm1 = RMSNorm(stack.dim)
        self.attention = RotaryAttention(stack, dropout, rotary)
        self.norm2 = RMSNorm(stack.dim)
        self.mlp = SwiGlu(stack.dim, stack.mlp, dropout)
