"""What least squares and standardisation need of features that are seen once and never kept: X^T X and X^T Y in fp64.

Shape letters: b rows, D features and one more that is always 1, S sides (see `probe_heads`), C classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vim_core.tasks.probe_heads import SIDES

FLAT = 0.01
"""Features that vary by less than this share of the typical one are not blown up to variance one."""


class GramSums(nn.Module):
    """Sums of products of features with each other [S, D, D] and with one-hot labels [S, D, C], in fp64.

    The last feature is 1, so the sums hold counts, means and class frequencies too.
    """

    inner: Tensor
    outer: Tensor

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.register_buffer("inner", torch.zeros(SIDES, width + 1, width + 1, dtype=torch.float64))
        self.register_buffer("outer", torch.zeros(SIDES, width + 1, classes, dtype=torch.float64))

    @torch.no_grad()
    def add(self, x: Tensor, targets: Tensor, counted: Tensor) -> None:
        """Rows [b, D] with one-hot labels [b, C], counted on each side [b, S] by 0 or 1."""
        x, targets, counted = x.double(), targets.double(), counted.double()
        for side in range(SIDES):
            rows = (x * counted[:, side, None]).T
            self.inner[side] += rows @ x
            self.outer[side] += rows @ targets

    def scaling(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation [D - 1] of all rows so far, in fp64; see `FLAT`."""
        whole = self.inner[-1]
        mean = whole[-1, :-1] / whole[-1, -1]
        variance = (whole.diagonal()[:-1] / whole[-1, -1] - mean.square()).clamp_min(0)
        return mean, variance.sqrt().clamp_min((FLAT * variance.mean().sqrt()).clamp_min(1e-12))

    def covariance(self, side: int) -> Tensor:
        """Of standardised features [D - 1, D - 1]."""
        inner = self.inner[side]
        mean, deviation = inner[-1, :-1] / inner[-1, -1], self.scaling()[1]
        return (inner[:-1, :-1] / inner[-1, -1] - torch.outer(mean, mean)) / torch.outer(deviation, deviation)

    def root(self, damping: float) -> Tensor:
        """Cholesky factor [D - 1, D - 1] of the covariance of all rows plus `damping` on its diagonal, in fp32.

        While rows are few for so many features, more is added: (features / rows)^2, which is the identity at first.
        """
        found = self.covariance(-1)
        diagonal = damping + (len(found) / self.inner[-1, -1, -1]).square()
        identity = torch.eye(len(found), dtype=found.dtype, device=found.device)
        root: Tensor = torch.linalg.cholesky(found + diagonal * identity)
        return root.float()

    def ridge(self, side: int, penalties: Sequence[float]) -> Tensor:
        """Least squares of one-hot labels on standardised features, the bias free: heads [len(penalties), D, C].

        Minimises the squared error summed over rows and classes plus penalty * rows * squared weights: scikit-learn's
        `Ridge(alpha=penalty * rows)` on the same features.
        """
        inner, outer = self.inner[side], self.outer[side]
        count = inner[-1, -1]
        mean, deviation = self.scaling()
        means, labels = inner[-1, :-1] / count, outer[-1] / count
        covariance = self.covariance(side)
        together = (outer[:-1] / count - torch.outer(means, labels)) / deviation[:, None]
        identity = torch.eye(len(mean), dtype=inner.dtype, device=inner.device)
        heads = []
        for penalty in penalties:
            factor = torch.linalg.cholesky(covariance + penalty * identity)
            weight = torch.cholesky_solve(together, factor)
            bias = labels - ((means - mean) / deviation) @ weight
            heads.append(torch.cat([weight, bias[None]]))
        return torch.stack(heads) if heads else outer.new_empty(0, *outer.shape)


def append_ones(x: Tensor) -> Tensor:
    """Features [b, D - 1] with a last column of ones [b, D]."""
    return torch.cat([x, x.new_ones(len(x), 1)], dim=1)


def unscale(heads: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
    """Heads [H, D, C] on standardised features as heads [D, H, C] on features as they come, in fp32."""
    weight = heads[:, :-1] / deviation[:, None]
    bias = heads[:, -1] - torch.einsum("d,hdc->hc", mean, weight)
    return torch.cat([weight, bias[:, None]], dim=1).movedim(0, 1).float()
