"""Linear probe: softmax layers on frozen, mean-pooled features of every block (paper section 4.2)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from vim_core.models.prior import ImagePrior


@torch.inference_mode()
def features(prior: ImagePrior, codes: Tensor, batch: int = 256) -> Tensor:
    """Features [blocks, N, D] of codes [N, T]: every block's output under the null class, averaged over tokens."""
    parts = [torch.stack(list(prior.block_features(chunk))) for chunk in codes.split(batch)]
    return torch.cat(parts, dim=1)


@dataclass
class ProbeResult:
    """Test accuracy of one feature set and the weight decay that the validation share chose."""

    accuracy: float
    weight_decay: float


def linear_probe(
    train: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor],
    classes: int,
    weight_decays: list[float],
    validation: Tensor,
    steps: int,
    batch: int,
    lr: float,
    seed: int,
) -> ProbeResult:
    """Fit a softmax layer by AdamW on standardised features; all weight decays train at once.

    The weight decay is chosen on the validation rows of the training set, then the layer is fitted on all of it:
    the test set is looked at once.

    Args:
        train, test: features [N, D] fp32 and labels [N].
        classes: number of classes.
        weight_decays: candidates; half of it times the squared weights is added to the loss.
        validation: bool [N], rows of `train` held out for the choice.
        steps: steps of the optimizer.
        batch: rows drawn a step; all of them where it is no smaller than their number.
        lr: AdamW's rate, decayed to zero by a cosine.
        seed: of the initial weights and the draws.
    """
    features_, labels = train
    mean, deviation = features_.mean(0), features_.std(0).clamp_min(1e-6)
    x, x_test = (features_ - mean) / deviation, (test[0] - mean) / deviation
    fitting = ~validation
    chosen = weight_decays[0]
    if len(weight_decays) > 1:
        heads = _fit(x[fitting], labels[fitting], classes, weight_decays, steps, batch, lr, seed)
        scores = [float(value) for value in _accuracy(heads, x[validation], labels[validation], classes)]
        chosen = weight_decays[scores.index(max(scores))]
    final = _fit(x, labels, classes, [chosen], steps, batch, lr, seed)
    return ProbeResult(float(_accuracy(final, x_test, test[1], classes)[0]), chosen)


Heads = tuple[Tensor, Tensor]


def _fit(
    x: Tensor, labels: Tensor, classes: int, weight_decays: list[float], steps: int, batch: int, lr: float, seed: int
) -> Heads:
    """Weights [D, H * C] and biases [H * C] of H heads side by side, one a weight decay, in one product a step."""
    count = len(weight_decays)
    generator = torch.Generator().manual_seed(seed)
    weight = (torch.randn(x.shape[1], 1, classes, generator=generator) * 0.01).repeat(1, count, 1).flatten(1)
    weight, bias = weight.requires_grad_(), torch.zeros(count * classes, requires_grad=True)
    decay = torch.tensor(weight_decays).repeat_interleave(classes)
    optimizer = torch.optim.AdamW([weight, bias], lr=lr, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    everything = torch.arange(len(x))
    for _ in range(steps):
        rows = torch.randint(len(x), (batch,), generator=generator) if batch < len(x) else everything
        logits = (x[rows] @ weight + bias).view(-1, classes)
        targets = labels[rows].repeat_interleave(count)
        # Summed over heads: each head's gradient is its own.
        loss = F.cross_entropy(logits, targets) * count + 0.5 * (decay * weight.square()).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return weight.detach(), bias.detach()


def _accuracy(heads: Heads, x: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Of each head [H]."""
    predicted = (x @ heads[0] + heads[1]).view(len(x), -1, classes).argmax(-1)
    return (predicted == labels[:, None]).float().mean(dim=0)
