"""The networks that a training component holds, built on the meta device."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import nn

from vim_core.config import (
    ClassifyConfig,
    OptimConfig,
    PipelineConfig,
    PriorConfig,
    ProbeConfig,
    QuantizeConfig,
)
from vim_core.models.classifier import Classifier, ClassifierShape
from vim_core.models.discriminator import make_discriminator
from vim_core.models.identity import is_decoder_tensor
from vim_core.models.prior import ImagePrior, PriorShape
from vim_core.models.vit_vqgan import ViTVQGAN
from vim_core.tasks.probe_heads import GramMatrices, SoftmaxHeads
from vim_core.training.flops import VGG16

CLASSIFIERS = ("classify", "selector")
"""Components that train a small classifier, each on one chip."""


@dataclass(frozen=True)
class PlannedNetwork:
    """One network that a training component holds.

    Attributes:
        name: of the network in the plan.
        module: the network on the meta device.
        optim: its optimizer; None where it does not learn by one.
        average: whether an exponential moving average is heads.
        split: whether the runtime splits it over chips; frozen networks are replicated.
        replicated_in_fsdp: whether FSDP2 leaves all of it unsharded.
        unsharded: parameters that FSDP2 leaves unsharded.
    """

    name: str
    module: nn.Module
    optim: OptimConfig | None = None
    average: bool = False
    split: bool = True
    replicated_in_fsdp: bool = False
    unsharded: Collection[str] = ()

    @property
    def parameters(self) -> int:
        """Values, learning or not."""
        return sum(p.numel() for p in self.module.parameters())


def tokenizer(config: QuantizeConfig) -> ViTVQGAN:
    """The network on the meta device; with a frozen encoder only the decoder learns."""
    with torch.device("meta"):
        model = ViTVQGAN(config)
    if config.freeze_encoder:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(is_decoder_tensor(name))
    return model


def perceptual() -> nn.Module:
    """A module as large as VGG16's convolutions, which the perceptual loss has in fp32."""
    pairs = [pair for group in VGG16 for pair in group]
    values = sum(9 * inputs * outputs + outputs for inputs, outputs in pairs)
    holder = nn.Module()
    holder.register_parameter("weight", nn.Parameter(torch.empty(values, device="meta"), requires_grad=False))
    return holder


def quantize_networks(config: QuantizeConfig) -> list[PlannedNetwork]:
    """Tokenizer, discriminator, and VGG16 where there is a perceptual loss."""
    average = config.ema > 0
    networks = [PlannedNetwork("tokenizer", tokenizer(config), config.optim, average, unsharded=("codebook.weight",))]
    if config.loss.adversarial > 0:
        with torch.device("meta"):
            network = make_discriminator(config.discriminator, config.image_size)
        networks.append(PlannedNetwork("discriminator", network, config.discriminator.optim, replicated_in_fsdp=True))
    if has_perceptual(config):
        networks.append(PlannedNetwork("perceptual", perceptual(), split=False))
    return networks


def has_perceptual(config: QuantizeConfig) -> bool:
    """True if there is a perceptual loss, by the rule of `Perceptual.create`."""
    return config.loss.perceptual > 0 and (bool(config.loss.perceptual_weights) or not config.loss.perceptual_optional)


def prior_shape(config: PriorConfig, tokens: QuantizeConfig, classes: int) -> PriorShape:
    """The network that `PriorTask` would build on codes of this tokenizer."""
    side = tokens.image_size // tokens.patch
    return PriorShape(
        stack=config.stack,
        variant=config.variant,
        grid=[side, side],
        vocabulary=tokens.codebook.codes,
        classes=classes if config.conditional else 0,
        dropout=config.dropout,
        embedding_dropout=config.embedding_dropout,
    )


def prior(shape: PriorShape) -> ImagePrior:
    """The network on the meta device."""
    with torch.device("meta"):
        return ImagePrior(shape)


def prior_networks(config: PriorConfig, tokens: QuantizeConfig, classes: int) -> list[PlannedNetwork]:
    """The prior, and the frozen tokenizer where it encodes images during the training."""
    model = prior(prior_shape(config, tokens, classes))
    networks = [PlannedNetwork("prior", model, config.optim, config.ema > 0)]
    if config.source == "images":
        networks.append(PlannedNetwork("tokenizer", tokenizer(tokens).requires_grad_(False), split=False))
    return networks


def probe_networks(config: ProbeConfig, shape: PriorShape, classes: int) -> list[PlannedNetwork]:
    """The frozen prior, and heads and Gram sums of every block and of pixels, as buffers."""
    dim, blocks = shape.stack.dim, shape.stack.blocks
    widths = [dim] * blocks + ([3 * config.pixels**2] if config.pixels else [])
    heads = nn.ModuleList()
    with torch.device("meta"):
        for width in widths:
            heads.append(SoftmaxHeads(width, classes, config.learning_rates, config.weight_decays, config.momentum))
            heads.append(GramMatrices(width, classes))
    return [
        PlannedNetwork("prior", prior(shape).requires_grad_(False), split=False),
        PlannedNetwork("heads", heads, split=False),
    ]


def classify_networks(config: ClassifyConfig, classes: int) -> list[PlannedNetwork]:
    """The classifier."""
    shape = ClassifierShape(config.image_size, classes, config.width, config.features, config.dropout)
    # built with storage and moved, because torch initialises some layers slowly on the meta device
    return [PlannedNetwork("classifier", Classifier(shape).to("meta"), config.optim, config.ema > 0, split=False)]


def planned_networks(component: str, config: PipelineConfig, classes: int) -> list[PlannedNetwork]:
    """The networks of a training component."""
    if component == "quantize":
        return quantize_networks(config.quantize)
    if component == "prior":
        return prior_networks(config.prior, config.quantize, classes)
    if component == "probe":
        return probe_networks(config.probe, prior_shape(config.prior, config.quantize, classes), classes)
    return classify_networks(getattr(config, component), classes)
