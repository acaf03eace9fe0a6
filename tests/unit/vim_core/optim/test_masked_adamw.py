"""The AdamW for devices without a fused one against torch's own, and its mask."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from vim_core.optim.masked_adamw import MaskedAdamW


def trained(optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter], rates: list[float]) -> None:
    for step, rate in enumerate(rates):
        generator = torch.Generator().manual_seed(step)
        for parameter in parameters:
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()


def parameters() -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(7)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in ((4, 3), (5,), ())]


@settings(max_examples=25, deadline=None)
@given(
    beta1=st.sampled_from([0.0, 0.5, 0.9]),
    beta2=st.sampled_from([0.9, 0.96, 0.99, 0.999]),
    decay=st.sampled_from([0.0, 1e-4, 0.3]),
    rates=st.lists(st.floats(1e-5, 1e-1), min_size=1, max_size=6),
)
def test_updates_equal_torch_to_rounding(beta1: float, beta2: float, decay: float, rates: list[float]) -> None:
    mine, theirs = parameters(), parameters()
    own = MaskedAdamW(mine, betas=(beta1, beta2), weight_decay=decay)
    plain = torch.optim.AdamW(theirs, betas=(beta1, beta2), weight_decay=decay, foreach=False, fused=False)
    trained(own, mine, rates)
    trained(plain, theirs, rates)
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
        for slot in ("exp_avg", "exp_avg_sq", "step"):
            torch.testing.assert_close(own.state[a][slot], plain.state[b][slot], rtol=1e-6, atol=1e-7)


def copies(optimizer: MaskedAdamW, parameters: list[nn.Parameter]) -> list[Tensor]:
    slots = [slot for p in parameters for slot in optimizer.state[p].values()]
    return [value.detach().clone() for value in [*parameters, *slots]]


@pytest.mark.parametrize("steps", [0, 2])
def test_a_masked_update_leaves_everything_and_a_later_one_is_as_if_it_never_was(steps: int) -> None:
    mine, others = parameters(), parameters()
    masked, fresh = MaskedAdamW(mine, lr=0.1), MaskedAdamW(others, lr=0.1)
    trained(masked, mine, [0.1] * steps)
    trained(fresh, others, [0.1] * steps)
    before = copies(masked, mine)
    for parameter in mine:
        parameter.grad = torch.full_like(parameter, torch.nan)
    masked.found_inf = torch.tensor(1.0)
    masked.step()
    assert all(torch.equal(a, b) for a, b in zip(before, copies(masked, mine), strict=True))
    masked.found_inf = torch.tensor(0.0)
    trained(masked, mine, [0.1])
    trained(fresh, others, [0.1])
    assert all(torch.equal(a, b) for a, b in zip(copies(masked, mine), copies(fresh, others), strict=True))


def test_state_survives_saving() -> None:
    mine, others = parameters(), parameters()
    one, other = MaskedAdamW(mine, lr=0.1), MaskedAdamW(others, lr=0.1)
    trained(one, mine, [0.1, 0.2])
    other.load_state_dict(copy.deepcopy(one.state_dict()))
    with torch.no_grad():
        for a, b in zip(others, mine, strict=True):
            a.copy_(b)
    trained(one, mine, [0.1])
    trained(other, others, [0.1])
    assert all(torch.equal(a, b) for a, b in zip(copies(one, mine), copies(other, others), strict=True))


def test_parameters_without_gradient_stay() -> None:
    used, unused = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    optimizer = MaskedAdamW([used, unused], lr=0.1)
    used.grad = torch.ones(2)
    optimizer.step()
    assert torch.equal(unused, torch.ones(2))
    assert not torch.equal(used, torch.ones(2))
