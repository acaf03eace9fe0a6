"""The moving average of weights."""

from __future__ import annotations

import torch
from torch import nn

from vim_core.optim.ema import Ema


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))


def test_average_follows_the_formula_with_warmed_up_decay() -> None:
    model = network()
    ema = Ema(model, decay=0.5)
    expected = model[0].weight.detach().clone()  # type: ignore[index]
    for step in range(12):
        with torch.no_grad():
            model[0].weight.normal_()  # type: ignore[index]
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * model[0].weight.detach()  # type: ignore[index]
        ema.update(step)
        torch.testing.assert_close(ema.shadow[0].weight, expected)  # type: ignore[index]


def test_buffers_are_copied_and_the_network_is_left_alone() -> None:
    model = network().train()
    ema = Ema(model, decay=0.9)
    before = [p.detach().clone() for p in model.parameters()]
    model(torch.randn(8, 3) * 4 + 1)
    ema.update(100)
    for (name, a), b in zip(model.named_buffers(), ema.shadow.buffers(), strict=True):
        assert torch.equal(a, b), name
        assert a.data_ptr() != b.data_ptr()
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert model.training
    assert not ema.shadow.training
    assert not any(p.requires_grad for p in ema.shadow.parameters())
