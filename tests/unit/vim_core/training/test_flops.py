"""Counted operations against torch's own counter, which watches every product and convolution of a real step."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from tests.support.tiny import quantize_config
from vim_core.config import CodebookConfig, DiscriminatorConfig, EntropyConfig, LossConfig, QuantizeConfig, StackConfig
from vim_core.losses.adversarial import discriminator_loss, generator_loss, r1_penalty
from vim_core.losses.likelihood import next_token_loss
from vim_core.models.codebook import soft_assignment
from vim_core.models.discriminator import Discriminator, make_discriminator
from vim_core.models.prior import ImagePrior, PriorShape
from vim_core.models.vit_vqgan import Tokenizer, ViTVQGAN
from vim_core.tasks.warm_start import is_decoder_tensor
from vim_core.training import flops

BATCH = 4


class NoModules:
    """In place of the counter's own tracker of modules, which cannot follow a gradient of a gradient."""

    parents = frozenset({"Global"})

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...


def counted(work: Callable[[], object]) -> float:
    """Operations that torch counts, attention as plain products (without the recomputation of flash kernels)."""
    counter = FlopCounterMode(display=False)
    counter.mod_tracker = NoModules()  # type: ignore[assignment]
    with counter, sdpa_kernel(SDPBackend.MATH):
        work()
    return float(counter.get_total_flops())


def tokenizer(**fields: Any) -> QuantizeConfig:
    base = quantize_config(
        image_size=16,
        batch=BATCH,
        encoder=StackConfig(blocks=2, heads=2, dim=16, mlp=48),
        decoder=StackConfig(blocks=1, heads=4, dim=32, mlp=64),
        codebook=CodebookConfig(codes=24, dim=6),
    )
    return replace(base, **fields)


@pytest.mark.parametrize(("laplace", "tanh"), [(0.0, "head"), (0.1, "head"), (0.0, "blocks")])
def test_generator_and_lookup_are_exact(laplace: float, tanh: str) -> None:
    config = tokenizer(loss=LossConfig(perceptual=0.0, logit_laplace=laplace), tanh=tanh)
    model = ViTVQGAN(config)
    images = torch.rand(BATCH, 3, 16, 16)
    parts = flops.quantizer_step(config)
    with torch.no_grad():
        latents = model.latents(images).flatten(0, 1)
        assert counted(lambda: model.latents(images)) == BATCH * flops.encoder(config)
        assert counted(lambda: model.codebook(latents)) == BATCH * flops.lookup(config) == parts["lookup"]
        assert counted(lambda: model.decode_vectors(latents.view(BATCH, -1, 6))) == BATCH * flops.decoder(config)
    whole = counted(lambda: model(images).raw.square().mean().backward())
    assert parts["generator"] + parts["lookup"] == whole


def test_a_frozen_encoder_has_no_backward_pass() -> None:
    config = tokenizer(freeze_encoder=True, init_from="there", loss=LossConfig(perceptual=0.0))
    model = ViTVQGAN(config)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(is_decoder_tensor(name))
    whole = counted(lambda: model(torch.rand(BATCH, 3, 16, 16)).raw.square().mean().backward())
    parts = flops.quantizer_step(config)
    assert parts["generator"] + parts["lookup"] == whole


def test_entropy_is_exact_but_for_what_is_computed_again() -> None:
    book = CodebookConfig(codes=24, dim=6, entropy=EntropyConfig(weight=0.1))
    latents, entries = torch.rand(BATCH * 16, 6, requires_grad=True), torch.rand(24, 6, requires_grad=True)
    found = counted(lambda: soft_assignment(latents, entries, 0.5).sample_entropy.backward())
    parts = flops.quantizer_step(tokenizer(codebook=book))
    assert parts["entropy"] == found - parts["lookup"]
    assert "entropy" not in flops.quantizer_step(tokenizer())


def networks_of(config: DiscriminatorConfig, size: int) -> tuple[Discriminator, Tensor, Tensor]:
    return make_discriminator(config, size), torch.rand(BATCH, 3, size, size), torch.rand(BATCH, 3, size, size)


STYLEGAN = DiscriminatorConfig(channels=12, base=128, r1_every=4)
PATCHES = [DiscriminatorConfig(kind="patch", channels=32, patch_layers=layers, r1_every=4) for layers in (1, 3, 4)]


@pytest.mark.parametrize(
    ("config", "size"),
    [(STYLEGAN, 8), (STYLEGAN, 32), (PATCHES[0], 16), (PATCHES[1], 32), (replace(PATCHES[2], spectral_norm=True), 64)],
)
def test_discriminator_passes_are_exact(config: DiscriminatorConfig, size: int) -> None:
    network, real, fake = networks_of(config, size)
    parts = flops.quantizer_step(tokenizer(image_size=size, discriminator=config))
    one = flops.discriminator(config, size)
    with torch.no_grad():
        assert counted(lambda: network(fake)) == BATCH * one.forward
    own = counted(lambda: discriminator_loss(network(real), network(fake)).backward())
    network.requires_grad_(False)
    lent = counted(lambda: generator_loss(network(fake.requires_grad_())).backward())
    assert own + lent == parts["discriminator"]


@pytest.mark.parametrize("size", [8, 32])
def test_amortised_r1_is_within_a_tenth(size: int) -> None:
    """torch counts the double backward of a strided convolution by its own way of computing it."""
    network, real, _ = networks_of(STYLEGAN, size)
    real.requires_grad_()
    found = counted(lambda: r1_penalty(network(real), real).backward())
    parts = flops.quantizer_step(tokenizer(image_size=size, discriminator=STYLEGAN))
    assert parts["r1"] * STYLEGAN.r1_every == pytest.approx(found, rel=0.1)


def test_perceptual_is_exact_for_the_features_of_vgg16() -> None:
    """On torch's device without memory; LPIPS adds five weightings of its features, a thousandth."""
    from torchvision.models import vgg16

    with torch.device("meta"):
        features = vgg16(weights=None).features[:30].requires_grad_(False)
        real, fake = torch.empty(BATCH, 3, 32, 32), torch.empty(BATCH, 3, 32, 32, requires_grad=True)
        found = counted(lambda: (features(fake) - features(real)).square().mean().backward())
    assert flops.quantizer_step(tokenizer(image_size=32), perceptual_loss=True)["perceptual"] == found


def prior(shape: PriorShape, backward: bool) -> float:
    model = ImagePrior(shape).train(backward)
    codes = torch.randint(shape.vocabulary, (BATCH, shape.tokens))
    labels = torch.zeros(BATCH, dtype=torch.int64)
    if backward:
        return counted(lambda: next_token_loss(model(codes, labels), codes).backward())
    with torch.no_grad():
        return counted(lambda: model(codes, labels))


@pytest.mark.parametrize("variant", ["paper", "modern"])
def test_prior_is_exact_where_all_pairs_count(variant: str) -> None:
    stack = StackConfig(blocks=3, heads=2, dim=24, mlp=40)
    shape = PriorShape(stack, [3, 5], vocabulary=17, classes=2, variant=variant)
    total = sum(flops.prior_step(shape, BATCH, "full").values())
    assert total == prior(shape, backward=True) == 3 * prior(shape, backward=False)


def test_images_that_are_encoded_for_the_prior_count() -> None:
    config = tokenizer(encode_batch=BATCH)
    encoder = Tokenizer(ViTVQGAN(config))
    shape = PriorShape(StackConfig(blocks=1, heads=2, dim=8, mlp=16), [4, 4], vocabulary=24, classes=2)
    plain, parts = flops.prior_step(shape, BATCH), flops.prior_step(shape, BATCH, tokenizer=config)
    assert parts == plain | {"tokenizer": counted(lambda: encoder.encode(torch.rand(BATCH, 3, 16, 16)))}


def test_causal_attention_counts_half_and_its_diagonal() -> None:
    shape = PriorShape(StackConfig(blocks=3, heads=2, dim=24, mlp=40), [3, 5], vocabulary=17, classes=2)
    full, causal = (flops.prior_step(shape, BATCH, pairs) for pairs in ("full", "causal"))
    assert flops.prior_step(shape, BATCH) == causal
    assert causal["attention"] / full["attention"] == pytest.approx((15 + 1) / (2 * 15))
    assert (causal["blocks"], causal["head"]) == (full["blocks"], full["head"])


def test_parts_come_with_their_settings_and_grow_with_the_batch() -> None:
    plain = tokenizer(loss=LossConfig(perceptual=0.0, adversarial=0.0))
    assert flops.quantizer_step(plain).keys() == {"generator", "lookup"}
    without = tokenizer(discriminator=replace(STYLEGAN, r1_gamma=0.0))
    assert flops.quantizer_step(without).keys() == {"generator", "lookup", "discriminator"}
    one, many = (flops.quantizer_step(tokenizer(batch=batch)) for batch in (1, 24))
    assert many == {name: 24 * value for name, value in one.items()}


def test_published_peaks() -> None:
    assert flops.published_peak("NVIDIA A100-SXM4-80GB", "bf16") == 312e12
    assert flops.published_peak("NVIDIA H200", "tf32") == 494.7e12
    unknown = [("Tesla V100-SXM2-16GB", "bf16"), ("NVIDIA H200 MIG 1g.18gb", "bf16"), ("some processor", "bf16")]
    assert [flops.published_peak(*device) for device in unknown] == [None] * 3


def test_shares_leave_out_what_is_unknown() -> None:
    assert flops.PeakRates(200.0, 80.0).shares(40.0) == {"mfu": 0.2, "share_of_measured": 0.5}
    assert flops.PeakRates(None, 80.0).shares(40.0) == {"share_of_measured": 0.5}
    assert flops.PeakRates().shares(40.0) == {}
    assert flops.PeakRates(200.0).shares(math.inf) == {}
