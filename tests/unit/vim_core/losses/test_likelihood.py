"""Chunked cross-entropy equals torch's to the bit; logit-laplace against torch.distributions and its normalisation."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Laplace, SigmoidTransform, TransformedDistribution

from vim_core.losses import likelihood
from vim_core.losses.likelihood import logit_laplace, next_token_loss


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("rows", "classes"), [(1, 2), (130, 40), (60, 300)])
def test_equals_torch_bit_for_bit(dtype: torch.dtype, rows: int, classes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(likelihood, "CHUNK", 500)
    torch.manual_seed(0)
    logits = (3 * torch.randn(rows, classes)).to(dtype).requires_grad_()
    targets = torch.randint(classes, (rows,))
    found, expected = next_token_loss(logits[None], targets[None]), F.cross_entropy(logits.float(), targets)
    assert torch.equal(found, expected)
    for scale in (1.0, 0.37):
        (one,) = torch.autograd.grad(scale * found, logits, retain_graph=True)
        (other,) = torch.autograd.grad(scale * expected, logits, retain_graph=True)
        assert one.dtype is dtype
        assert torch.equal(one, other)


def test_keeps_no_fp32_copy_of_the_logits() -> None:
    logits = torch.randn(64, 32).bfloat16().requires_grad_()
    kept: list[tuple[int, torch.dtype]] = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept.append((tensor.numel(), tensor.dtype))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        next_token_loss(logits[None], torch.zeros(1, 64, dtype=torch.int64))
    assert (64 * 32, torch.bfloat16) in kept
    assert (64 * 32, torch.float32) not in kept


EPS = 0.1


def raw_output(batch: int = 2, size: int = 3) -> Tensor:
    torch.manual_seed(0)
    return torch.randn(batch, 6, size, size, dtype=torch.float64)


def remapped(images: Tensor) -> Tensor:
    return images * (1 - 2 * EPS) + EPS


def test_logit_laplace_is_the_log_density_of_a_squashed_laplace() -> None:
    raw, images = raw_output().requires_grad_(), torch.rand(2, 3, 3, 3, dtype=torch.float64)
    images[:, :, 0, :2] = torch.tensor([0.0, 1.0])  # black and white
    with torch.no_grad():
        raw[0, 3:] *= 9  # some scales beyond the clamp
    loss = logit_laplace(raw, images)
    (found,) = torch.autograd.grad(loss, raw)
    log_scale = raw[:, 3:].clamp(-7, 7)
    squashed = TransformedDistribution(Laplace(raw[:, :3], log_scale.exp()), SigmoidTransform())
    density = -squashed.log_prob(remapped(images)).mean()
    torch.testing.assert_close(loss, density)
    (expected,) = torch.autograd.grad(density, raw)
    torch.testing.assert_close(found, expected)
    assert ((raw[:, 3:].abs() > 7) == (found[:, 3:] == 0)).all()
