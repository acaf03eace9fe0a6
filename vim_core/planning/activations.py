"""The memory model of activations: bytes that a forward pass saves for the backward pass.

It models eager PyTorch with fused attention (no [T, T] matrix is saved), or with scores in memory where a device has
no such kernel (`ElementSizes.score_rows`). Under bf16 autocast the inputs of matrix products are bf16 and the residual
stream is fp32. XLA fuses element-wise work and saves less, so for TPUs this is an upper estimate; padding to tiles by
its compiler is not counted. Checked against the CPU's allocator in real steps of small networks and against tensors
without storage at the sizes of the ImageNet presets (`tests/unit/vim_core/planning/test_memory.py`), on no accelerator
yet.

A paper block saves per token, with D = dim, M = mlp, s = 4 or 2 bytes of a product's input, m bytes of a mask's value:

    stream before either branch  2 * 4 D      normalised inputs  2 s D      q, k, v  3 s D      attention's output  s D
    GELU's input and output      2 s M        dropout's masks    m (2 D + M), where there is dropout
    log-sums of attention and statistics of the norms  4 heads + 16

Recomputation saves a block's input (4 D) and one block in full.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vim_core.config import ClassifyConfig, DiscriminatorConfig, QuantizeConfig, StackConfig
from vim_core.layers.chunked_attention import chunk_bytes
from vim_core.layers.modern import swiglu_width
from vim_core.losses.adversarial import per_image, r1_penalty
from vim_core.losses.likelihood import logit_laplace
from vim_core.models.classifier import Classifier, ClassifierShape
from vim_core.models.discriminator import make_discriminator
from vim_core.models.prior import PriorShape
from vim_core.training.flops import VGG16

FP32 = 4
SCORE_COPIES = 9
"""Matrices of all pairs in fp32 that one attention without a fused kernel has at once in its backward pass: about
19 GB for 16 images of 32 heads and 1,024 tokens, by XLA's own account of the program."""
CHUNK = 1 << 20
"""Logits that `cross_entropy` processes at once on the CPU."""


@dataclass(frozen=True)
class ElementSizes:
    """Bytes of the values that are saved.

    Attributes:
        item: of an input of a matrix product: 4, or 2 under bf16.
        cpu: whether the step runs on a CPU, where dropout's mask has the type of its input.
        score_rows: rows of a head's matrix of all pairs of tokens that exist at once, as many as a chunk of
            `chunked_attention` has; 0 with a fused kernel.
    """

    item: int = 4
    cpu: bool = False
    score_rows: int = 0

    @property
    def mask(self) -> int:
        """Bytes of a value of dropout's mask."""
        return self.item if self.cpu else 1


@dataclass(frozen=True)
class Activations:
    """Bytes `saved` until the backward pass, and `transient` ones on top at its most demanding moment."""

    saved: float = 0.0
    transient: float = 0.0

    def __add__(self, other: Activations) -> Activations:
        return Activations(self.saved + other.saved, max(self.transient, other.transient))


def block_bytes(stack: StackConfig, sizes: ElementSizes, dropout: bool, variant: str = "paper") -> float:
    """Bytes per token that one block saves; the modern variant has norms in fp32 and a gated net of four inputs."""
    dim, item = stack.dim, sizes.item
    width = stack.mlp if variant == "paper" else swiglu_width(stack.mlp)
    total = 2 * FP32 * dim + 2 * item * dim + 3 * item * dim + item * dim + FP32 * stack.heads
    total += sizes.mask * (2 * dim + width) if dropout else 0
    if variant == "paper":
        return total + 2 * item * width + 4 * FP32
    # quotients of both norms, those of queries and keys with fp32 copies, both rotated; a number per head and norm
    total += 2 * FP32 * dim + 2 * (FP32 + item) * dim + (2 * FP32 * dim if item < FP32 else 0)
    return total + 4 * item * width + 2 * FP32 * (1 + stack.heads)


def stack(
    config: StackConfig, tokens: int, sizes: ElementSizes, dropout: bool, recompute: bool, variant: str
) -> Activations:
    """A stack of blocks over one image's tokens."""
    block = tokens * block_bytes(config, sizes, dropout, variant)
    # at its last layers a block's backward pass has the gradients of the stream and of the activation's two sides
    width = config.mlp if variant == "paper" else swiglu_width(config.mlp)
    transient = tokens * (FP32 * config.dim + 2 * sizes.item * width)
    rows = min(sizes.score_rows, tokens)
    if 0 < rows < tokens:
        transient += chunk_bytes(1, config.heads, tokens)
    elif rows == tokens:
        transient += SCORE_COPIES * FP32 * config.heads * tokens * tokens
        # whole matrices: the weights are saved in fp32 by the softmax and as an input of a product
        block += (FP32 + sizes.item) * config.heads * tokens * tokens
    if recompute:
        return Activations(config.blocks * tokens * FP32 * config.dim, block - tokens * FP32 * config.dim + transient)
    return Activations(config.blocks * block, transient)


def prior(shape: PriorShape, images: int, sizes: ElementSizes, recompute: bool) -> Activations:
    """A pass of the prior over codes of `images` images."""
    tokens, dim = shape.tokens, shape.stack.dim
    dropout = shape.dropout > 0
    blocks = stack(shape.stack, tokens, sizes, dropout, recompute, shape.variant)
    ends = FP32 * dim + sizes.item * dim + 16
    ends += FP32 * dim if shape.variant == "modern" else 0
    ends += sizes.mask * dim if dropout and shape.embedding_dropout else 0
    saved = Activations(images * (blocks.saved + tokens * ends), images * blocks.transient)
    return saved + cross_entropy(images * tokens, shape.vocabulary, sizes)


def cross_entropy(rows: int, vocabulary: int, sizes: ElementSizes) -> Activations:
    """Next-token loss: on accelerators three fp32 matrices of all logits (log-probabilities, slope, gradient).

    On the CPU, logits and their gradient, and three fp32 matrices for a chunk at a time.
    """
    values = float(rows * vocabulary)
    if sizes.cpu:
        chunk = min(values, max(1, CHUNK // vocabulary) * vocabulary)
        return Activations(0.0, 2 * sizes.item * values + 3 * FP32 * chunk)
    return Activations(0.0, 3 * FP32 * values)


def encoding_bytes(config: QuantizeConfig, images: int) -> float:
    """Largest number of bytes while a frozen tokenizer encodes images in fp32: an MLP's layers or all codes' scores."""
    tokens = images * (config.image_size // config.patch) ** 2
    stream = config.encoder.dim
    return float(FP32 * tokens * max(2 * stream + 2 * config.encoder.mlp, stream + 2 * config.codebook.codes))


def generator(config: QuantizeConfig, images: int, sizes: ElementSizes, perceptual: bool) -> Activations:
    """Generator pass of stage 1 over `images` images: tokenizer, losses, and the discriminator on reconstructions."""
    tokens, pixels = (config.image_size // config.patch) ** 2, config.image_size**2
    total = Activations()
    for side in (config.encoder, config.decoder):
        part = stack(side, tokens, sizes, False, config.recompute, "paper")
        if side is config.encoder and config.freeze_encoder:
            part = Activations(0.0, part.transient)
        head = sizes.item * (side.dim + side.mlp) if config.tanh == "head" else sizes.item * side.dim
        total += Activations(images * (part.saved + tokens * (head + FP32 * side.dim)), images * part.transient)
    total += Activations(0.0, FP32 * float(images * tokens * config.codebook.codes))
    channels = 6 if config.loss.logit_laplace > 0 else 3
    # input patches, raw output in both layouts and the reconstruction are saved until the losses
    total += Activations(FP32 * float(images * pixels * (3 + 3 + channels)), 0.0)
    # pixel losses are computed in fp32
    total += Activations(saved_bytes(lambda: _pixel_losses(config, images), ElementSizes()))
    if perceptual:
        total += Activations(saved_bytes(lambda: _lpips(config.image_size, images), sizes))
    if config.loss.adversarial > 0:
        network = _meta_discriminator(config.discriminator, config.image_size, images)
        total += Activations(saved_bytes(lambda: network(_images(config.image_size, images)), sizes))
    return total


def discriminator(config: QuantizeConfig, images: int, sizes: ElementSizes) -> Activations:
    """Discriminator pass of stage 1 on real images and reconstructions, in a step with R1 where that is configured.

    R1 is computed in fp32 whatever the precision. Its backward pass differentiates a layer twice: gradients of its
    input, of its output and of the first derivative are alive together.
    """
    size, settings = config.image_size, config.discriminator
    network = _meta_discriminator(settings, size, images)
    total = saved_bytes(lambda: [network(_images(size, images)) for _ in range(2)], sizes)
    largest = images * _widest_layer(settings, size)
    if settings.r1_gamma == 0:
        return Activations(total, 2 * sizes.item * largest)

    def gradient_penalty() -> Tensor:
        real = _images(size, images)
        return r1_penalty(per_image(network(real)), real)

    return Activations(total + saved_bytes(gradient_penalty, ElementSizes()), 3 * FP32 * largest)


def _widest_layer(config: DiscriminatorConfig, size: int) -> float:
    """Values of the first layer's output for one image, the largest of a discriminator."""
    if config.kind == "patch":
        return config.channels / 8 * (size / 2) ** 2
    return float(min(config.base // size, config.channels) * size**2)


def classifier(config: ClassifyConfig, classes: int, images: int, sizes: ElementSizes) -> Activations:
    """Pass of the classifier over `images` images."""
    shape = ClassifierShape(config.image_size, classes, config.width, config.features, config.dropout)
    model = Classifier(shape).to("meta")
    # gradients of two feature maps and the workspace of the convolution between them: fitted to two measured widths
    widest = max(side * side * outputs for _, outputs, side in classifier_widths(config))
    return Activations(
        saved_bytes(lambda: model(_images(config.image_size, images)), sizes), 2.5 * images * widest * sizes.item
    )


def saved_bytes(compute: Callable[[], object], sizes: ElementSizes) -> float:
    """Bytes that autograd saves of a computation on the meta device: each storage once, without parameters.

    Counted in fp32; half of it under bf16, in which convolutions work.
    """
    storages: dict[int, Tensor] = {}

    def note(value: Tensor) -> Tensor:
        if not isinstance(value, nn.Parameter):
            storages[value.untyped_storage()._cdata] = value
        return value

    with torch.autograd.graph.saved_tensors_hooks(note, lambda value: value):
        compute()
    return sum(value.untyped_storage().nbytes() for value in storages.values()) * sizes.item / FP32


def _images(size: int, images: int) -> Tensor:
    return torch.empty(images, 3, size, size, device="meta", requires_grad=True)


def _pixel_losses(config: QuantizeConfig, images: int) -> Tensor:
    """Pixel losses of reconstructions [N, 3, S, S]."""
    real, fake = _images(config.image_size, images).detach(), _images(config.image_size, images)
    terms = [F.mse_loss(fake, real)]
    if config.loss.l1 > 0:
        terms.append(F.l1_loss(fake, real))
    if config.loss.logit_laplace > 0:
        raw = torch.empty(images, 6, *real.shape[2:], device="meta", requires_grad=True)
        terms.append(logit_laplace(raw, real))
    return torch.stack(terms).sum()


def _lpips(size: int, images: int) -> Tensor:
    """LPIPS as its package computes it: squared differences of VGG16's five normalised feature maps of both images."""
    total = torch.zeros((), device="meta")
    sides = [_images(size, images), _images(size, images).detach()]
    for index, group in enumerate(VGG16):
        for channels in group:
            weight = torch.empty(channels[1], channels[0], 3, 3, device="meta")
            sides = [F.relu_(F.conv2d(x, nn.Parameter(weight, requires_grad=False), padding=1)) for x in sides]
        unit = [x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10) for x in sides]
        total = total + (unit[0] - unit[1]).square().mean()
        if index + 1 < len(VGG16):
            sides = [F.max_pool2d(x, 2) for x in sides]
    return total


def _meta_discriminator(config: DiscriminatorConfig, size: int, images: int) -> nn.Module:
    """The discriminator without storage; its groups, which cost no memory, are made to divide the images."""
    with torch.device("meta"):
        network = make_discriminator(config, size)
    network.group = math.gcd(getattr(network, "group", 1), images)
    return network


def classifier_widths(config: ClassifyConfig) -> list[tuple[int, int, int]]:
    """Input channels, output channels and side of the output of each of the classifier's convolutions."""
    widths = [config.width, config.width * 2, config.width * 4]
    side = -(-config.image_size // 2)
    layers = [(3, widths[0], side)]
    for inputs, outputs in pairwise(widths):
        layers.append((inputs, inputs, side))
        side = -(-side // 2)
        layers.append((inputs, outputs, side))
    return [*layers, (widths[-1], widths[-1], side)]
