"""Rules from name patterns to specs: what they choose, what they refuse, and the default rules on both stages."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tests.support import tiny
from vim_core.config import OptimConfig
from vim_core.distributed.spmd import (
    COLUMNS,
    FSDP,
    OUTPUTS,
    ROWS,
    Rule,
    Spec,
    check_divisible,
    optimizer_specs,
    resolve,
    slot_spec,
    specs_of,
)
from vim_core.errors import ConfigError
from vim_core.models.discriminator import StyleGANDiscriminator
from vim_core.optim.factored_adam import FactoredAdam
from vim_core.optim.masked_adamw import MaskedAdamW

WHOLE: Spec = (None, None)
SHAPES = {"embed.weight": (8, 4), "blocks.0.up.weight": (16, 8), "blocks.0.up.bias": (16,), "norm.weight": (8,)}


@pytest.mark.parametrize("pattern", ["embed", r"mbed\.weight", r"blocks\.1\..+", "norm.weight"])
def test_a_pattern_that_matches_nothing_is_an_error(pattern: str) -> None:
    with pytest.raises(ConfigError, match=r"matches no parameter; there are embed.weight") as caught:
        resolve(SHAPES, [Rule(pattern, ROWS)])
    assert repr(pattern) in str(caught.value)


def test_two_different_specs_for_one_parameter_are_an_error() -> None:
    with pytest.raises(ConfigError, match=r"'embed.weight' is matched by '.\+weight' as .* and by 'embed.\+' as"):
        resolve(SHAPES, [Rule(".+weight", ROWS), Rule("embed.+", COLUMNS)])
    assert resolve(SHAPES, [Rule(".+weight", ROWS), Rule("embed.+", ROWS)])["embed.weight"] == ROWS


@given(st.permutations([Rule(r"blocks\..+", ROWS), Rule(r"embed\.weight", COLUMNS), Rule(r"norm.+", (FSDP,))]))
def test_the_order_of_rules_does_not_matter(rules: list[Rule]) -> None:
    assert resolve(SHAPES, rules) == {
        "embed.weight": COLUMNS,
        "blocks.0.up.weight": ROWS,
        "blocks.0.up.bias": (None,),
        "norm.weight": (FSDP,),
    }


def test_uneven_parts_are_refused() -> None:
    specs = resolve(SHAPES, [Rule("embed.weight", ROWS)])
    check_divisible(SHAPES, specs, {FSDP: 8})
    with pytest.raises(ConfigError, match=r"run\.fsdp=3: does not divide dimension 0 of embed\.weight \[8, 4\]"):
        check_divisible(SHAPES, specs, {FSDP: 3})


@pytest.mark.parametrize(
    "network",
    [tiny.tokenizer_network(), tiny.prior_network(), StyleGANDiscriminator(tiny.quantize_config().discriminator, 8)],
    ids=lambda network: type(network).__name__,
)
def test_default_rules_split_nearly_everything(network: nn.Module) -> None:
    specs = specs_of(network)
    large = {n: p.numel() for n, p in network.named_parameters() if p.ndim > 1}
    split = sum(size for name, size in large.items() if FSDP in specs[name])
    assert split > 0.9 * sum(large.values())
    assert all(specs[n] == (None,) for n, p in network.named_parameters() if p.ndim == 1)


def test_a_network_without_rules_stays_whole() -> None:
    assert specs_of(nn.Linear(2, 3)) == {"weight": (None, None), "bias": (None,)}


@pytest.mark.parametrize(
    ("shape", "spec", "expected"),
    [
        ((8, 64), ROWS, {"row": (FSDP,), "column": (None,), "exp_avg": ROWS, "exp_avg_scale": ROWS}),
        ((8, 64), COLUMNS, {"row": (None,), "column": (FSDP,), "exp_avg": COLUMNS, "exp_avg_scale": (None, None)}),
        ((8, 512), COLUMNS, {"row": (None,), "column": (FSDP,), "exp_avg": COLUMNS, "exp_avg_scale": COLUMNS}),
        ((8, 4, 3, 3), OUTPUTS, {"row": (FSDP,), "column": (None,), "exp_avg": OUTPUTS, "exp_avg_scale": ROWS}),
        ((8, 4), WHOLE, {"row": (None,), "column": (None,), "exp_avg": WHOLE, "exp_avg_scale": WHOLE}),
        ((8,), (None,), {"exp_avg": (None,), "exp_avg_sq": (None,)}),
    ],
)
def test_slots_of_the_factored_adam_go_without_the_axis_of_their_mean(
    shape: tuple[int, ...], spec: Spec, expected: dict[str, Spec]
) -> None:
    parameter = nn.Parameter(torch.zeros(shape))
    slots = FactoredAdam([parameter], first_moment="int8").state[parameter]
    found = {name: slot_spec(name, slot, parameter, spec, {FSDP: 2}) for name, slot in slots.items()}
    assert found == expected | {"step": ()}


def test_optimizer_slots_are_split_like_their_parameter() -> None:
    layer = nn.Linear(4, 8)
    optimizer = MaskedAdamW(layer.parameters(), lr=OptimConfig().lr)
    optimizer.state[layer.weight]["factor"] = torch.zeros(8)
    found = optimizer_specs(optimizer, {layer.weight: ROWS, layer.bias: (None,)}, {FSDP: 2})
    by_shape = {(tuple(slot.shape), spec) for slot, spec in found}
    assert by_shape == {((), ()), ((8,), (None,)), ((8, 4), ROWS)}
    assert len(found) == 7
