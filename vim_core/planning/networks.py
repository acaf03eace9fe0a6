"""The networks that a training component holds, built on the meta device, and their bytes on each of its chips."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
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
from vim_core.distributed import spmd
from vim_core.distributed.spmd import DATA, FSDP, Spec
from vim_core.errors import ConfigError
from vim_core.models.classifier import Classifier, ClassifierShape
from vim_core.models.discriminator import make_discriminator
from vim_core.models.prior import ImagePrior, PriorShape
from vim_core.models.vit_vqgan import ViTVQGAN
from vim_core.optim.optimizers import make_optimizer
from vim_core.tasks.probe_heads import GramMatrices, SoftmaxHeads
from vim_core.tasks.warm_start import is_decoder_tensor
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
        average: whether an exponential moving average is kept.
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


def quantize_networks(config: QuantizeConfig) -> list[PlannedNetwork]:
    """Tokenizer, discriminator, and VGG16 where there is a perceptual loss."""
    average = config.ema > 0
    networks = [PlannedNetwork("tokenizer", tokenizer(config), config.optim, average, unsharded=("codebook.weight",))]
    if config.loss.adversarial > 0:
        with torch.device("meta"):
            network = make_discriminator(config.discriminator, config.image_size)
        networks.append(PlannedNetwork("discriminator", network, config.discriminator.optim, replicated_in_fsdp=True))
    if has_perceptual(config):
        # a module as large as VGG16's convolutions, which the perceptual loss has in fp32
        values = sum(9 * inputs * outputs + outputs for group in VGG16 for inputs, outputs in group)
        vgg = nn.Module()
        vgg.register_parameter("weight", nn.Parameter(torch.empty(values, device="meta"), requires_grad=False))
        networks.append(PlannedNetwork("perceptual", vgg, split=False))
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


def planned_networks(component: str, config: PipelineConfig, classes: int) -> list[PlannedNetwork]:
    """The networks of a training component."""
    if component == "quantize":
        return quantize_networks(config.quantize)
    if component == "prior":
        return prior_networks(config.prior, config.quantize, classes)
    if component == "probe":
        return probe_networks(config.probe, prior_shape(config.prior, config.quantize, classes), classes)
    own: ClassifyConfig = getattr(config, component)
    shape = ClassifierShape(own.image_size, classes, own.width, own.features, own.dropout)
    # built with storage and moved, because torch initialises some layers slowly on the meta device
    return [PlannedNetwork("classifier", Classifier(shape).to("meta"), own.optim, own.ema > 0, split=False)]


@dataclass(frozen=True)
class Layout:
    """The split of networks and batches over chips.

    Attributes:
        way: 'xla' (rules of `distributed.spmd`), 'fsdp' (FSDP2: by rows) or 'data' (a copy on each chip).
        chips: chips that share the batch.
        shards: chips that share one copy of the networks.
    """

    way: str
    chips: int
    shards: int

    @property
    def sizes(self) -> dict[str, int]:
        """Chips along each axis of the mesh."""
        return {DATA: self.chips // self.shards, FSDP: self.shards}

    def specs(self, network: PlannedNetwork) -> dict[str, Spec]:
        """The axis that splits each dimension of each parameter, by the parameter's name."""
        named = dict(network.module.named_parameters())
        if self.way == "xla" and network.split:
            return spmd.specs_of(network.module)
        whole: dict[str, Spec] = {name: (None,) * p.ndim for name, p in named.items()}
        if self.way != "fsdp" or not network.split or network.replicated_in_fsdp:
            return whole
        # as `parallel.split` does: vectors and parameters that a task keeps whole are not sharded
        rows = {name for name, p in named.items() if p.ndim >= 2 and name not in network.unsharded}
        return whole | {name: (FSDP, *(None,) * (named[name].ndim - 1)) for name in rows}

    def elements(self, shape: Sequence[int], spec: Spec) -> int:
        """Values of a tensor on one chip, the largest part where it does not come out even."""
        return math.prod(-(-size // self.sizes[axis]) if axis else size for size, axis in zip(shape, spec, strict=True))

    def parameters(self, network: PlannedNetwork, trained: bool = False) -> int:
        """Values of a network on one chip: all, or only those that learn."""
        specs = self.specs(network)
        named = network.module.named_parameters()
        return sum(self.elements(p.shape, specs[name]) for name, p in named if p.requires_grad or not trained)

    def buffers(self, network: PlannedNetwork) -> float:
        """Bytes of a network's buffers, which are never split."""
        return float(sum(value.numel() * value.element_size() for value in network.module.buffers()))

    def slots(self, network: PlannedNetwork) -> float:
        """Bytes of the optimizer's state on one chip."""
        if network.optim is None:
            return 0.0
        specs = self.specs(network)
        if network.optim.kind == "adamw":
            learning = [p for p in network.module.parameters() if p.requires_grad]
            # two moments in fp32, and a step counter per tensor
            return 8.0 * self.parameters(network, trained=True) + 4.0 * len(learning)
        with torch.device("meta"):
            optimizer = make_optimizer(network.module, network.optim)
        by_tensor: dict[torch.Tensor, Spec] = {p: specs[name] for name, p in network.module.named_parameters()}
        slots = spmd.optimizer_specs(optimizer, by_tensor, self.sizes)
        return float(sum(self.elements(slot.shape, spec) * slot.element_size() for slot, spec in slots))

    def largest(self, network: PlannedNetwork) -> int:
        """Values of the largest tensor on one chip, which bounds the temporaries of an update tensor by tensor."""
        specs = self.specs(network)
        return max((self.elements(p.shape, specs[n]) for n, p in network.module.named_parameters()), default=0)

    def uneven(self, network: PlannedNetwork) -> str:
        """The error by which the rules of XLA refuse this network on so many chips; empty for none."""
        if self.way != "xla" or not network.split:
            return ""
        shapes = {name: tuple(p.shape) for name, p in network.module.named_parameters()}
        try:
            spmd.check_divisible(shapes, self.specs(network), self.sizes)
        except ConfigError as error:
            return str(error)
        return ""


def largest_block(module: nn.Module) -> int:
    """Values of the matrices of the largest block, which are gathered while it computes."""
    blocks = [b for m in module.modules() if isinstance(m, nn.ModuleList) for b in m]
    return max((sum(p.numel() for p in b.parameters() if p.ndim >= 2) for b in blocks), default=0)
