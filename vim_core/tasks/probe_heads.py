"""Many softmax layers on one set of features, trained side by side by SGD.

Shape letters: b rows, D features and one more that is always 1, S sides, H heads a side, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SIDES = 2
"""Every head is there twice: fitted without the validation images, to be chosen, and on all, to be judged."""


class SoftmaxHeads(nn.Module):
    """A head for every pair of learning rate and weight decay, rates outermost; from zero, as the problem is convex.

    Momentum and update are those of `torch.optim.SGD`, whose weight decay here leaves the bias alone. Nothing goes
    through autograd: the gradient of a softmax layer is one product, for all heads together.

    Args:
        width: features.
        classes: of the labels.
        rates: learning rates.
        decays: weight decays.
        momentum: of SGD.
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
        size = width + 1, SIDES, len(self.pairs), classes
        self.register_buffer("weight", torch.zeros(size))
        self.register_buffer("velocity", torch.zeros(size))
        pairs = torch.tensor(self.pairs)
        self.register_buffer("rates", pairs[:, :1].clone(), persistent=False)
        decayed = torch.ones(width + 1, 1, 1, 1)
        decayed[-1] = 0
        self.register_buffer("decays", decayed * pairs[:, 1:], persistent=False)

    @torch.no_grad()
    def update(
        self, x: Tensor, targets: Tensor, shares: Tensor, factor: Tensor, go: Tensor, root: Tensor | None = None
    ) -> Tensor:
        """One step of every head; returns the loss of each before it [S, H].

        Args:
            x: standardised features with a last column of ones [b, D].
            targets: labels as one-hot rows [b, C].
            shares: of each row in the mean of either side's loss [b, S].
            factor: what the learning rates are multiplied with, a scalar.
            go: 0.0 to leave everything as it is, else 1.0.
            root: Cholesky factor [D - 1, D - 1] of the features' covariance: the update is divided by that covariance,
                which makes it the one of decorrelated features; None for plain SGD.
        """
        _, sides, heads, classes = self.weight.shape
        logits = (x @ self.weight.flatten(1)).view(-1, sides, heads, classes)
        logarithms = F.log_softmax(logits, dim=-1)
        losses = -torch.einsum("bshc,bc,bs->sh", logarithms, targets, shares)
        # Into the memory of the logits' exponentials: these are the largest tensors here.
        errors = logarithms.exp_().sub_(targets[:, None, None]).mul_(shares[:, :, None, None])
        gradient = (x.T @ errors.flatten(1)).view_as(self.weight).addcmul_(self.weight, self.decays)
        velocity = self.velocity * self.momentum + gradient
        weight = self.weight - factor * self.rates * (velocity if root is None else _divided(velocity, root))
        self.velocity.copy_(torch.where(go > 0, velocity, self.velocity))
        self.weight.copy_(torch.where(go > 0, weight, self.weight))
        return losses

    def side(self, side: int) -> Tensor:
        """The heads of one side [H, D, C] on standardised features, in fp64."""
        return self.weight[:, side].movedim(1, 0).double()


def _divided(velocity: Tensor, root: Tensor) -> Tensor:
    """Rows of all features but the last [D, S, H, C] times the inverse of root root^T."""
    features = torch.cholesky_solve(velocity[:-1].flatten(1), root).view_as(velocity[:-1])
    return torch.cat([features, velocity[-1:]])
