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
class Part:
    """One network of a component.

    optim: None where it does not learn by an optimizer.
    average: whether a moving average of it is kept.
    split: whether the component hands it to the runtime to be split; a frozen network is whole on every chip.
    whole_in_fsdp, kept: what FSDP2 leaves whole, all of it or parameters by name.
    """

    name: str
    module: nn.Module
    optim: OptimConfig | None = None
    average: bool = False
    split: bool = True
    whole_in_fsdp: bool = False
    kept: Collection[str] = ()

    @property
    def parameters(self) -> int:
        """Values, learning or not."""
        return sum(p.numel() for p in self.module.parameters())


def tokenizer(config: QuantizeConfig) -> ViTVQGAN:
    """The network; of a frozen encoder the decoder alone learns."""
    with torch.device("meta"):
        model = ViTVQGAN(config)
    if config.freeze_encoder:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(is_decoder_tensor(name))
    return model


def perceptual() -> nn.Module:
    """VGG16's convolutions, which the perceptual loss holds in fp32."""
    pairs = [pair for group in VGG16 for pair in group]
    values = sum(9 * inputs * outputs + outputs for inputs, outputs in pairs)
    holder = nn.Module()
    holder.register_parameter("weight", nn.Parameter(torch.empty(values, device="meta"), requires_grad=False))
    return holder


def quantize_parts(config: QuantizeConfig) -> list[Part]:
    """Tokenizer, discriminator, and VGG16 where there is a perceptual loss."""
    average = config.ema > 0
    parts = [Part("tokenizer", tokenizer(config), config.optim, average, kept=("codebook.weight",))]
    if config.loss.adversarial > 0:
        with torch.device("meta"):
            judge = make_discriminator(config.discriminator, config.image_size)
        parts.append(Part("discriminator", judge, config.discriminator.optim, whole_in_fsdp=True))
    if has_perceptual(config):
        parts.append(Part("perceptual", perceptual(), split=False))
    return parts


def has_perceptual(config: QuantizeConfig) -> bool:
    """As `Perceptual.create` decides."""
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
    """The network without storage."""
    with torch.device("meta"):
        return ImagePrior(shape)


def prior_parts(config: PriorConfig, tokens: QuantizeConfig, classes: int) -> list[Part]:
    """The prior, and the frozen tokenizer where it encodes images as they come."""
    model = prior(prior_shape(config, tokens, classes))
    parts = [Part("prior", model, config.optim, config.ema > 0)]
    if config.source == "images":
        parts.append(Part("tokenizer", tokenizer(tokens).requires_grad_(False), split=False))
    return parts


def probe_parts(config: ProbeConfig, shape: PriorShape, classes: int) -> list[Part]:
    """The frozen prior, and heads and sums of every block and of pixels, as buffers."""
    dim, blocks = shape.stack.dim, shape.stack.blocks
    widths = [dim] * blocks + ([3 * config.pixels**2] if config.pixels else [])
    kept = nn.ModuleList()
    with torch.device("meta"):
        for width in widths:
            kept.append(SoftmaxHeads(width, classes, config.learning_rates, config.weight_decays, config.momentum))
            kept.append(GramMatrices(width, classes))
    return [Part("prior", prior(shape).requires_grad_(False), split=False), Part("heads", kept, split=False)]


def classify_parts(config: ClassifyConfig, classes: int) -> list[Part]:
    """The classifier."""
    shape = ClassifierShape(config.image_size, classes, config.width, config.features, config.dropout)
    # Made for real and then emptied, because it is small and torch's own layers are slow to draw without storage.
    return [Part("classifier", Classifier(shape).to("meta"), config.optim, config.ema > 0, split=False)]


def parts_of(component: str, config: PipelineConfig, classes: int) -> list[Part]:
    """The networks of a training component."""
    if component == "quantize":
        return quantize_parts(config.quantize)
    if component == "prior":
        return prior_parts(config.prior, config.quantize, classes)
    if component == "probe":
        return probe_parts(config.probe, prior_shape(config.prior, config.quantize, classes), classes)
    return classify_parts(getattr(config, component), classes)
