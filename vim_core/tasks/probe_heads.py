"""Linear classifiers on frozen features: softmax layers by SGD, and ridge regression from streamed sums.

Shape letters: b rows, D features and one more that is always 1, F fits, H heads a fit, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FITS = 2
"""Every head is fitted twice: 0 without the validation images, for the selection, and 1 on all, for the result."""

MIN_DEVIATION = 0.01
"""Lower bound of a feature's deviation, as a share of the typical one: constant features are not scaled up."""


class SoftmaxHeads(nn.Module):
    """A softmax layer for every pair of learning rate and weight decay, rates outermost; initialised to zero.

    Momentum and update are those of `torch.optim.SGD`, without weight decay of the bias. There is no autograd: the
    gradient of a softmax layer is one product, for all heads together.
    """

    weight: Tensor
    velocity: Tensor
    rates: Tensor
    decays: Tensor

    def __init__(
        self, width: int, classes: int, rates: Sequence[float], decays: Sequence[float], momentum: float
    ) -> None:
        super().__init__()
        self.pairs = [(rate, decay) for rate in rates for decay in decays]
        self.momentum = momentum
        size = width + 1, FITS, len(self.pairs), classes
        self.register_buffer("weight", torch.zeros(size))
        self.register_buffer("velocity", torch.zeros(size))
        pairs = torch.tensor(self.pairs)  # [H, 2]
        self.register_buffer("rates", pairs[:, :1].clone(), persistent=False)
        decayed = torch.ones(width + 1, 1, 1, 1)
        decayed[-1] = 0
        self.register_buffer("decays", decayed * pairs[:, 1:], persistent=False)  # [D, 1, H, 1]

    @torch.no_grad()
    def update(
        self, x: Tensor, targets: Tensor, shares: Tensor, factor: Tensor, go: Tensor, root: Tensor | None = None
    ) -> Tensor:
        """One SGD step of every head; returns the loss of each before it [F, H].

        Args:
            x: standardised features with a last column of ones [b, D].
            targets: one-hot labels [b, C].
            shares: weight of each row in the mean loss of either fit [b, F].
            factor: multiplies the learning rates, a scalar.
            go: 1.0 to update, 0.0 to leave everything as it is.
            root: Cholesky factor [D - 1, D - 1] of the features' covariance: the update is divided by the covariance,
                which makes it that of decorrelated features; None for plain SGD.
        """
        _, fits, heads, classes = self.weight.shape
        logits = (x @ self.weight.flatten(1)).view(-1, fits, heads, classes)
        log_probabilities = F.log_softmax(logits, dim=-1)  # [b, F, H, C]
        losses = -torch.einsum("bfhc,bc,bf->fh", log_probabilities, targets, shares)
        # In place, because these are the largest tensors here. [b, F, H, C]
        errors = log_probabilities.exp_().sub_(targets[:, None, None]).mul_(shares[:, :, None, None])
        gradient = (x.T @ errors.flatten(1)).view_as(self.weight).addcmul_(self.weight, self.decays)  # [D, F, H, C]
        velocity = self.velocity * self.momentum + gradient  # [D, F, H, C]
        direction = velocity
        if root is not None:
            features = cholesky_solve(velocity[:-1].flatten(1), root).view_as(velocity[:-1])
            direction = torch.cat([features, velocity[-1:]])
        weight = self.weight - factor * self.rates * direction
        self.velocity.copy_(torch.where(go > 0, velocity, self.velocity))
        self.weight.copy_(torch.where(go > 0, weight, self.weight))
        return losses

    def fitted(self, fit: int) -> Tensor:
        """The heads of one fit [H, D, C] on standardised features, in fp64."""
        return self.weight[:, fit].movedim(1, 0).double()


class GramMatrices(nn.Module):
    """Sums over rows of x^T x [F, D, D] and x^T y [F, D, C] in fp64, y being one-hot labels.

    They are all that standardisation and least squares need of features that are seen once and never stored. The last
    feature is 1, so the sums include counts, means and class frequencies.
    """

    inner: Tensor
    outer: Tensor

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.register_buffer("inner", torch.zeros(FITS, width + 1, width + 1, dtype=torch.float64))
        self.register_buffer("outer", torch.zeros(FITS, width + 1, classes, dtype=torch.float64))

    @torch.no_grad()
    def add(self, x: Tensor, targets: Tensor, counted: Tensor) -> None:
        """Add rows [b, D] with one-hot labels [b, C]; `counted` [b, F] says with 0 or 1 which fits a row belongs to."""
        x, targets, counted = x.double(), targets.double(), counted.double()
        for fit in range(FITS):
            rows = (x * counted[:, fit, None]).T
            self.inner[fit] += rows @ x
            self.outer[fit] += rows @ targets

    def scaling(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation [D - 1] of the features over all rows, in fp64; see `MIN_DEVIATION`."""
        inner = self.inner[-1]  # [D, D]
        mean = inner[-1, :-1] / inner[-1, -1]
        variance = (inner.diagonal()[:-1] / inner[-1, -1] - mean.square()).clamp_min(0)
        return mean, variance.sqrt().clamp_min((MIN_DEVIATION * variance.mean().sqrt()).clamp_min(1e-12))

    def covariance(self, fit: int) -> Tensor:
        """Covariance [D - 1, D - 1] of the standardised features over the rows of a fit."""
        inner = self.inner[fit]
        mean, deviation = inner[-1, :-1] / inner[-1, -1], self.scaling()[1]
        return (inner[:-1, :-1] / inner[-1, -1] - torch.outer(mean, mean)) / torch.outer(deviation, deviation)

    def root(self, damping: float) -> Tensor:
        """Cholesky factor [D - 1, D - 1] of the covariance over all rows plus `damping` on its diagonal, in fp32.

        While there are few rows for the features, more is added: (features / rows)^2. The first is near the identity.
        Not a number where there is none, which the figures then show: to raise an error, the host would have to wait.
        """
        covariance = self.covariance(-1)
        diagonal = damping + (len(covariance) / self.inner[-1, -1, -1]).square()
        identity = torch.eye(len(covariance), dtype=covariance.dtype, device=covariance.device)
        damped = covariance + diagonal * identity
        if damped.device.type == "xla":
            # See `cholesky_solve`. The lower triangle is not a number where there is no factor.
            root: Tensor = torch.ops.aten.cholesky(damped)
            return root.float()
        root, failed = torch.linalg.cholesky_ex(damped)
        return torch.where(failed == 0, root, torch.nan).float()

    def ridge(self, fit: int, penalties: Sequence[float]) -> Tensor:
        """Least squares of one-hot labels on standardised features, the bias not penalised: [len(penalties), D, C].

        Minimises the squared error summed over rows and classes plus penalty * rows * squared weights: scikit-learn's
        `Ridge(alpha=penalty * rows)` on the same features.
        """
        inner, outer = self.inner[fit], self.outer[fit]
        count = inner[-1, -1]
        mean, deviation = self.scaling()
        means, labels = inner[-1, :-1] / count, outer[-1] / count  # of the fit's rows: [D - 1], [C]
        covariance = self.covariance(fit)
        cross = (outer[:-1] / count - torch.outer(means, labels)) / deviation[:, None]  # [D - 1, C]
        identity = torch.eye(len(mean), dtype=inner.dtype, device=inner.device)
        heads = []
        for penalty in penalties:
            factor = torch.linalg.cholesky(covariance + penalty * identity)
            weight = torch.cholesky_solve(cross, factor)
            bias = labels - ((means - mean) / deviation) @ weight
            heads.append(torch.cat([weight, bias[None]]))
        return torch.stack(heads) if heads else outer.new_empty(0, *outer.shape)


def cholesky_solve(value: Tensor, root: Tensor) -> Tensor:
    """As `torch.cholesky_solve` of value [D, N] with a lower factor [D, D].

    On XLA by the older operators, whose names torch deprecates: torch_xla compiles only these, and does the newer ones
    on the host, which waits for the devices twice.
    """
    if value.device.type != "xla":
        return torch.cholesky_solve(value, root)
    half = torch.ops.aten.triangular_solve(value, root, upper=False)[0]
    solution: Tensor = torch.ops.aten.triangular_solve(half, root, upper=False, transpose=True)[0]
    return solution


def append_ones(x: Tensor) -> Tensor:
    """Features [b, D - 1] with a last column of ones [b, D]."""
    return torch.cat([x, x.new_ones(len(x), 1)], dim=1)


def unscale(heads: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
    """Heads [H, D, C] on standardised features as heads [D, H, C] on the features themselves, in fp32."""
    weight = heads[:, :-1] / deviation[:, None]
    bias = heads[:, -1] - torch.einsum("d,hdc->hc", mean, weight)
    return torch.cat([weight, bias[:, None]], dim=1).movedim(0, 1).float()
