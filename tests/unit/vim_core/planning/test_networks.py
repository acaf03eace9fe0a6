"""Parameters that a plan counts, against the table in vim_core/README.md."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from vim_core.config import ClassifyConfig, LossConfig, PriorConfig, ProbeConfig, QuantizeConfig
from vim_core.models.classifier import Classifier, ClassifierShape
from vim_core.models.parameter_counts import count_parameters
from vim_core.models.sizes import prior_stack, tokenizer_settings
from vim_core.planning import networks

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
    # torchvision's vgg16().features has 14,714,688 values.
    assert sum(p.numel() for p in networks.perceptual().parameters()) == 14_714_688
    with_it = QuantizeConfig(loss=LossConfig(perceptual_weights="vgg.pth"))
    assert [part.name for part in networks.quantize_networks(with_it)] == ["tokenizer", "discriminator", "perceptual"]
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
    (part,) = networks.classify_networks(ClassifyConfig(), 10)
    assert part.parameters == count_parameters(Classifier(ClassifierShape()))
    assert all(p.is_meta for p in part.module.parameters())
