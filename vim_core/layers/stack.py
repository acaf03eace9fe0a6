"""A tokenizer's stack of blocks with positions for any grid."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vim_core.config import StackConfig
from vim_core.layers.transformer import Block, LayerNorm, run_block, sincos_2d

Grid = tuple[int, int]
"""Rows and columns of tokens."""


class TransformerStack(nn.Module):
    """Positions, transformer blocks and the final norm."""

    positions: Tensor

    def __init__(
        self, stack: StackConfig, grid: int, positions: str, recompute: bool = False, tanh: bool = False
    ) -> None:
        super().__init__()
        self.grid = (grid, grid)
        self.dim = stack.dim
        self.learned = positions == "learned"
        self.recompute = recompute
        table = torch.empty(grid * grid, stack.dim)
        if self.learned:
            self.positions = nn.Parameter(table)
            self.reset_parameters()
        else:
            self.register_buffer("positions", table, persistent=False)
            self.fill_buffers()
        self.blocks = nn.ModuleList(Block(stack, tanh=tanh) for _ in range(stack.blocks))
        self.norm = LayerNorm(stack.dim)

    def reset_parameters(self) -> None:
        """Draw the learned positions."""
        if self.learned and not self.positions.is_meta:
            with torch.no_grad():
                self.positions.copy_(torch.randn_like(self.positions) * 0.02)

    def fill_buffers(self) -> None:
        """Compute the fixed positions; does nothing on the meta device."""
        if not self.learned and not self.positions.is_meta:
            self.positions.copy_(sincos_2d(*self.grid, self.dim))

    def positions_on(self, grid: Grid) -> Tensor:
        """Position vectors [h * w, D] of another grid.

        Learned ones are interpolated (bicubic, antialiased, over the whole image), fixed ones computed by formula.
        """
        if grid == self.grid:
            return self.positions
        if not self.learned:
            return sincos_2d(*grid, self.dim).to(self.positions)
        table = self.positions.float().T.reshape(1, self.dim, *self.grid)
        resized = F.interpolate(table, size=grid, mode="bicubic", antialias=True)
        return resized.flatten(2)[0].T.to(self.positions.dtype)

    def forward(self, x: Tensor, grid: Grid | None = None) -> Tensor:
        """[B, T, D] -> [B, T, D], the tokens in raster order over `grid` (default: the grid of training)."""
        x = x + self.positions_on(grid or self.grid)
        for block in self.blocks:
            x = run_block(block, x, self.recompute)
        return self.norm(x)  # type: ignore[no-any-return]
