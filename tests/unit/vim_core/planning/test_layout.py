"""Bytes on a chip by how a network is split."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from vim_core.config import DiscriminatorConfig, LossConfig, OptimConfig, PriorConfig, QuantizeConfig, StackConfig
from vim_core.models.discriminator import make_discriminator
from vim_core.optim.optimizers import make_optimizer
from vim_core.planning.layout import Layout, largest_block
from vim_core.planning.networks import PlannedNetwork, prior_networks, quantize_networks

STACK = StackConfig(blocks=2, heads=2, dim=16, mlp=32)
ONE = Layout("data", 1, 1)


def prior(**optim: object) -> PlannedNetwork:
    settings = PriorConfig(stack=STACK, optim=OptimConfig(**optim))  # type: ignore[arg-type]
    return prior_networks(settings, QuantizeConfig(image_size=16, patch=8), 3)[0]


def linear(optim: OptimConfig) -> PlannedNetwork:
    """A matrix [32, 64] and a vector [32]."""
    with torch.device("meta"):
        return PlannedNetwork("one", nn.Linear(64, 32), optim)


def test_slots_of_adam_are_two_copies_and_counters() -> None:
    assert ONE.slots(linear(OptimConfig())) == 2 * 4 * (32 * 64 + 32) + 2 * 4


def test_slots_of_the_factored_adam_by_hand() -> None:
    # Step, row and column means and the moment of the matrix; step and both moments of the vector.
    vector = 4 + 2 * 4 * 32
    fp32, bf16 = (OptimConfig(kind="factored", first_moment=kind) for kind in ("fp32", "bf16"))
    assert ONE.slots(linear(fp32)) == vector + 4 + 4 * (32 + 64) + 4 * 32 * 64
    assert ONE.slots(linear(bf16)) == vector + 4 + 4 * (32 + 64) + 2 * 32 * 64
    # Rows of 64 are one block of int8 levels with one scale.
    eight = OptimConfig(kind="factored", first_moment="int8")
    assert ONE.slots(linear(eight)) == vector + 4 + 4 * (32 + 64) + 32 * 64 + 4 * 32


@pytest.mark.parametrize("way", ["xla", "fsdp"])
def test_matrices_are_shared_and_vectors_are_not(way: str) -> None:
    part, layout = prior(), Layout(way, 4, 4)
    named = dict(part.module.named_parameters())
    vectors = sum(p.numel() for p in named.values() if p.ndim < 2)
    # The rules of XLA leave the tables of positions whole; FSDP2 splits whatever has rows, here two into four parts.
    odd = 2 * 2 * 16 if way == "xla" else 2 * 1 * 16
    tables = {"rows", "columns", "class_embedding.weight"}
    rest = sum(p.numel() for name, p in named.items() if p.ndim >= 2 and name not in tables)
    classes = 4 * 16 // 4
    assert layout.parameters(part) == vectors + rest // 4 + odd + classes


def test_slots_follow_the_sharding() -> None:
    alone, shared = ONE.slots(prior(kind="factored")), Layout("xla", 8, 8).slots(prior(kind="factored"))
    assert alone / 8 < shared < alone / 4


def test_the_batch_alone_is_split_where_shards_share_no_copy() -> None:
    part = prior()
    assert Layout("xla", 64, 4).parameters(part) == Layout("xla", 4, 4).parameters(part)
    assert Layout("data", 64, 1).parameters(part) == part.parameters


def test_what_stays_whole_under_fsdp() -> None:
    small = {"encoder": STACK, "decoder": STACK, "image_size": 16}
    judge = DiscriminatorConfig(channels=8, base=64)
    config = QuantizeConfig(**small, discriminator=judge, loss=LossConfig(perceptual=0.0))  # type: ignore[arg-type]
    tokenizer, discriminator = quantize_networks(config)
    split = Layout("fsdp", 2, 2)
    assert split.specs(tokenizer)["codebook.weight"] == (None, None)
    assert split.specs(tokenizer)["embed.weight"] == ("fsdp", None)
    assert split.parameters(discriminator) == discriminator.parameters
    real = make_discriminator(judge, 16)
    assert discriminator.parameters == sum(p.numel() for p in real.parameters())


def test_uneven_widths_are_said() -> None:
    assert "run.fsdp=3: does not divide dimension" in Layout("xla", 3, 3).uneven(prior())
    assert Layout("xla", 4, 4).uneven(prior()) == ""
    assert Layout("fsdp", 3, 3).uneven(prior()) == ""


def test_the_largest_block_counts_matrices() -> None:
    assert largest_block(prior().module) == 16 * (3 * 16 + 16 + 2 * 32)
    assert largest_block(nn.Linear(2, 2)) == 0


def test_slots_are_those_of_a_real_optimizer() -> None:
    torch.manual_seed(0)
    config = OptimConfig(kind="factored", first_moment="int8")
    layer = nn.Linear(64, 32)
    state = make_optimizer(layer, config).state.values()
    assert ONE.slots(linear(config)) == sum(v.numel() * v.element_size() for slots in state for v in slots.values())
