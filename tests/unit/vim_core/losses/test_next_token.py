"""Chunked cross-entropy equals torch's to the bit, values and gradients."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from vim_core.losses import next_token
from vim_core.losses.next_token import chunked_cross_entropy, next_token_loss


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("rows", "classes"), [(1, 2), (130, 40), (1000, 300)])
def test_equals_torch_bit_for_bit(dtype: torch.dtype, rows: int, classes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(next_token, "CHUNK", 500)
    torch.manual_seed(0)
    logits = (3 * torch.randn(rows, classes)).to(dtype).requires_grad_()
    targets = torch.randint(classes, (rows,))
    found, expected = chunked_cross_entropy(logits, targets), F.cross_entropy(logits.float(), targets)
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
        chunked_cross_entropy(logits, torch.zeros(64, dtype=torch.int64))
    assert (64 * 32, torch.bfloat16) in kept
    assert (64 * 32, torch.float32) not in kept


def test_the_loss_of_ignorance_is_the_log_of_the_vocabulary() -> None:
    codes = torch.randint(0, 8, (3, 5))
    assert float(next_token_loss(torch.zeros(3, 5, 8), codes)) == pytest.approx(math.log(8))
    sure = F.one_hot(codes, 8) * 50.0
    assert float(next_token_loss(sure, codes)) == pytest.approx(0.0, abs=1e-6)
