"""Cross-entropy in pieces is torch's to the bit, values and gradients."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from vim_core.losses import cross_entropy
from vim_core.losses.cross_entropy import pieced_cross_entropy


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("rows", "classes"), [(1, 2), (7, 11), (130, 40), (1000, 300)])
def test_equals_torch_bit_for_bit(dtype: torch.dtype, rows: int, classes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cross_entropy, "VALUES", 500)
    torch.manual_seed(0)
    logits = (3 * torch.randn(rows, classes)).to(dtype).requires_grad_()
    targets = torch.randint(classes, (rows,))
    found, expected = pieced_cross_entropy(logits, targets), F.cross_entropy(logits.float(), targets)
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
        pieced_cross_entropy(logits, torch.zeros(64, dtype=torch.int64))
    assert (64 * 32, torch.bfloat16) in kept
    assert (64 * 32, torch.float32) not in kept
