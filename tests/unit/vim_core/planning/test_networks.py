"""Parameters that a plan counts, against the table in vim_core/README.md."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from vim_core.config import (
    DiscriminatorConfig,
    LossConfig,
    OptimConfig,
    PipelineConfig,
    PriorConfig,
    ProbeConfig,
    QuantizeConfig,
    StackConfig,
)
from vim_core.models.classifier import Classifier, ClassifierShape
from vim_core.models.discriminator import make_discriminator
from vim_core.models.sizes import prior_stack, tokenizer_settings
from vim_core.planning import networks
from vim_core.planning.networks import Layout, PlannedNetwork, largest_block, prior_networks, quantize_networks

README = Path(__file__).resolve().parents[4] / "vim_core" / "README.md"


def printed(model: str) -> float:
    """Millions of parameters in the last column of the row."""
    rows = [line.strip("| ").split("|") for line in README.read_text(encoding="utf-8").splitlines()]
    return next(float(row[-1]) for row in rows if row[0].strip() == model)


@pytest.mark.parametrize("name", ["small", "base", "large"])
def test_tokenizers(name: str) -> None:
    found = networks.quantize_networks(tokenizer_settings(name))[0].parameters
    assert round(found / 1e6, 1) == printed(f"ViT-VQGAN {name}")


@pytest.mark.parametrize("name", ["base", "large"])
def test_priors(name: str) -> None:
    parts = networks.prior_networks(PriorConfig(stack=prior_stack(name)), tokenizer_settings("small"), 1000)
    assert [part.name for part in parts] == ["prior"]
    assert round(parts[0].parameters / 1e6, 1) == printed(f"VIM {name}")


def test_vgg16_and_who_holds_it() -> None:
    with_it = QuantizeConfig(loss=LossConfig(perceptual_weights="vgg.pth"))
    parts = networks.quantize_networks(with_it)
    assert [part.name for part in parts] == ["tokenizer", "discriminator", "perceptual"]
    # torchvision's vgg16().features has 14,714,688 values.
    assert parts[2].parameters == 14_714_688
    without = replace(with_it, loss=LossConfig(perceptual_optional=True))
    assert [part.name for part in networks.quantize_networks(without)] == ["tokenizer", "discriminator"]
    assert not networks.has_perceptual(replace(with_it, loss=LossConfig(perceptual=0.0)))


def test_a_prior_of_images_holds_the_tokenizer() -> None:
    parts = networks.prior_networks(PriorConfig(source="images"), QuantizeConfig(), 10)
    assert [(part.name, part.optim is None) for part in parts] == [("prior", False), ("tokenizer", True)]


def test_a_frozen_encoder_does_not_learn() -> None:
    part = networks.quantize_networks(QuantizeConfig(init_from="somewhere", freeze_encoder=True))[0]
    learning = {name for name, p in part.module.named_parameters() if p.requires_grad}
    assert {name.split(".")[0] for name in learning} == {"from_code", "decoder", "decoder_head"}


def test_an_unconditional_prior_has_one_class() -> None:
    shape = networks.prior_shape(PriorConfig(conditional=False), QuantizeConfig(image_size=256, patch=16), 1000)
    assert (shape.classes, shape.grid, shape.vocabulary) == (0, [16, 16], 8192)


def test_heads_and_sums_of_the_probe_by_hand() -> None:
    config = ProbeConfig(learning_rates=[0.1, 0.3], weight_decays=[0.0], pixels=0)
    shape = networks.prior_shape(PriorConfig(), QuantizeConfig(), 5)
    frozen, heads = networks.probe_networks(config, shape, 5)
    assert frozen.parameters == sum(p.numel() for p in networks.prior(shape).parameters())
    width, blocks = shape.stack.dim + 1, shape.stack.blocks
    own = 2 * 4 * (width * 2 * 2 * 5) + 4 * (2 + width * 2) + 8 * 2 * width * (width + 5)
    assert sum(value.numel() * value.element_size() for value in heads.module.buffers()) == blocks * own


def test_the_classifier_is_the_real_one() -> None:
    (part,) = networks.planned_networks("classify", PipelineConfig(), 10)
    assert part.parameters == sum(p.numel() for p in Classifier(ClassifierShape()).parameters())
    assert all(p.is_meta for p in part.module.parameters())


STACK = StackConfig(blocks=2, heads=2, dim=16, mlp=32)
ONE = Layout("data", 1, 1)


def prior_part(**optim: object) -> PlannedNetwork:
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
    part, layout = prior_part(), Layout(way, 4, 4)
    named = dict(part.module.named_parameters())
    vectors = sum(p.numel() for p in named.values() if p.ndim < 2)
    # The rules of XLA leave the tables of positions whole; FSDP2 splits whatever has rows, here two into four parts.
    odd = 2 * 2 * 16 if way == "xla" else 2 * 1 * 16
    tables = {"rows", "columns", "class_embedding.weight"}
    rest = sum(p.numel() for name, p in named.items() if p.ndim >= 2 and name not in tables)
    classes = 4 * 16 // 4
    assert layout.parameters(part) == vectors + rest // 4 + odd + classes


def test_slots_follow_the_sharding() -> None:
    alone, shared = ONE.slots(prior_part(kind="factored")), Layout("xla", 8, 8).slots(prior_part(kind="factored"))
    assert alone / 8 < shared < alone / 4


def test_the_batch_alone_is_split_where_shards_share_no_copy() -> None:
    part = prior_part()
    assert Layout("xla", 64, 4).parameters(part) == Layout("xla", 4, 4).parameters(part)
    assert Layout("data", 64, 1).parameters(part) == part.parameters


def test_parts_that_fsdp_does_not_split() -> None:
    small = {"encoder": STACK, "decoder": STACK, "image_size": 16}
    discriminator_config = DiscriminatorConfig(channels=8, base=64)
    config = QuantizeConfig(**small, discriminator=discriminator_config, loss=LossConfig(perceptual=0.0))  # type: ignore[arg-type]
    tokenizer, discriminator = quantize_networks(config)
    split = Layout("fsdp", 2, 2)
    assert split.specs(tokenizer)["codebook.weight"] == (None, None)
    assert split.specs(tokenizer)["embed.weight"] == ("fsdp", None)
    assert split.parameters(discriminator) == discriminator.parameters
    real = make_discriminator(discriminator_config, 16)
    assert discriminator.parameters == sum(p.numel() for p in real.parameters())


def test_uneven_widths_are_said() -> None:
    assert "run.fsdp=3: does not divide dimension" in Layout("xla", 3, 3).uneven(prior_part())
    assert Layout("xla", 4, 4).uneven(prior_part()) == ""
    assert Layout("fsdp", 3, 3).uneven(prior_part()) == ""


def test_the_largest_block_counts_matrices() -> None:
    assert largest_block(prior_part().module) == 16 * (3 * 16 + 16 + 2 * 32)
    assert largest_block(nn.Linear(2, 2)) == 0
