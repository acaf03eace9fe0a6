"""Bytes that a forward pass keeps for the backward pass: the memory model, stated.

The model is that of eager PyTorch with fused attention (no [T, T] matrix is kept). Under bf16 the products' inputs are
bf16 and the residual stream fp32, as autocast has it. XLA fuses element-wise work and keeps less, so for TPUs this is
an upper estimate; what its compiler lays out on top (padding to tiles) is not counted. Checked against the allocator
of the CPU in real steps (`tests/unit/vim_core/planning/test_memory.py`), on no accelerator yet.

A paper block keeps per token, D = dim, M = mlp, s = 4 or 2 bytes of a product's input, m bytes of a mask's value:

    stream before either branch  2 * 4 D      normalised inputs  2 s D      q, k, v  3 s D      attention's output  s D
    GELU's input and output      2 s M        dropout's masks    m (2 D + M), where there is dropout
    log-sums of attention and statistics of the norms  4 heads + 16

Recomputation keeps a block's input (4 D) and one block in full.
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
from vim_core.layers.modern import swiglu_width
from vim_core.losses.adversarial import r1_penalty
from vim_core.losses.reconstruction import logit_laplace
from vim_core.models.classifier import Classifier, ClassifierShape
from vim_core.models.discriminator import make_discriminator
from vim_core.models.prior import PriorShape
from vim_core.tasks.discriminator import per_image
from vim_core.training.flops import VGG16

FP32 = 4
PIECE = 1 << 20
"""Logits a piece of `cross_entropy` on the CPU."""


@dataclass(frozen=True)
class Numbers:
    """Bytes of a product's input, and of a value of dropout's mask: torch's own is a byte, that of the CPU a number."""

    item: int = 4
    cpu: bool = False

    @property
    def mask(self) -> int:
        """Bytes of a mask's value."""
        return self.item if self.cpu else 1


@dataclass(frozen=True)
class Kept:
    """Bytes kept until the backward pass, and what its most demanding moment needs on top."""

    kept: float = 0.0
    moment: float = 0.0

    def __add__(self, other: Kept) -> Kept:
        return Kept(self.kept + other.kept, max(self.moment, other.moment))


def block(stack: StackConfig, numbers: Numbers, dropout: bool, variant: str = "paper") -> float:
    """Bytes a token that one block keeps; of the modern variant, norms in fp32 and the gated net's four inputs."""
    dim, item = stack.dim, numbers.item
    width = stack.mlp if variant == "paper" else swiglu_width(stack.mlp)
    found = 2 * FP32 * dim + 2 * item * dim + 3 * item * dim + item * dim + FP32 * stack.heads
    found += numbers.mask * (2 * dim + width) if dropout else 0
    if variant == "paper":
        return found + 2 * item * width + 4 * FP32
    # Both norms' quotients, those of queries and keys with their fp32 copies, both turned; one number a head and norm.
    found += 2 * FP32 * dim + 2 * (FP32 + item) * dim + (2 * FP32 * dim if item < FP32 else 0)
    return found + 4 * item * width + 2 * FP32 * (1 + stack.heads)


def stack(config: StackConfig, tokens: int, numbers: Numbers, dropout: bool, recompute: bool, variant: str) -> Kept:
    """A stack of blocks over one image's tokens."""
    one = tokens * block(config, numbers, dropout, variant)
    # At its last layers a block's backward pass holds the stream's gradient and those around the activation.
    width = config.mlp if variant == "paper" else swiglu_width(config.mlp)
    moment = tokens * (FP32 * config.dim + 2 * numbers.item * width)
    if recompute:
        return Kept(config.blocks * tokens * FP32 * config.dim, one - tokens * FP32 * config.dim + moment)
    return Kept(config.blocks * one, moment)


def prior(shape: PriorShape, images: int, numbers: Numbers, recompute: bool) -> Kept:
    """A pass of the prior over codes of `images` images."""
    tokens, dim = shape.tokens, shape.stack.dim
    dropout = shape.dropout > 0
    blocks = stack(shape.stack, tokens, numbers, dropout, recompute, shape.variant)
    ends = FP32 * dim + numbers.item * dim + 16
    ends += FP32 * dim if shape.variant == "modern" else 0
    ends += numbers.mask * dim if dropout and shape.embedding_dropout else 0
    kept = Kept(images * (blocks.kept + tokens * ends), images * blocks.moment)
    return kept + logits(images * tokens, shape.vocabulary, numbers)


def logits(rows: int, vocabulary: int, numbers: Numbers) -> Kept:
    """The cross-entropy: on accelerators three fp32 matrices of all logits (logarithms, slope, gradient).

    The CPU keeps logits and their gradient alone, and passes three fp32 matrices in pieces.
    """
    values = float(rows * vocabulary)
    if numbers.cpu:
        piece = min(values, max(1, PIECE // vocabulary) * vocabulary)
        return Kept(0.0, 2 * numbers.item * values + 3 * FP32 * piece)
    return Kept(0.0, 3 * FP32 * values)


def encoding(config: QuantizeConfig, images: int) -> float:
    """Bytes at most of the frozen encode in fp32 of so many images: an MLP's two layers, or scores of all codes."""
    tokens = images * (config.image_size // config.patch) ** 2
    stream = config.encoder.dim
    return float(FP32 * tokens * max(2 * stream + 2 * config.encoder.mlp, stream + 2 * config.codebook.codes))


def generator(config: QuantizeConfig, images: int, numbers: Numbers, perceptual: bool) -> Kept:
    """Stage 1's first half over `images` images: tokenizer, losses, and the discriminator's word on the result."""
    tokens, pixels = (config.image_size // config.patch) ** 2, config.image_size**2
    found = Kept()
    for side in (config.encoder, config.decoder):
        part = stack(side, tokens, numbers, False, config.recompute, "paper")
        if side is config.encoder and config.freeze_encoder:
            part = Kept(0.0, part.moment)
        head = numbers.item * (side.dim + side.mlp) if config.tanh == "head" else numbers.item * side.dim
        found += Kept(images * (part.kept + tokens * (head + FP32 * side.dim)), images * part.moment)
    found += Kept(0.0, FP32 * float(images * tokens * config.codebook.codes))
    channels = 6 if config.loss.logit_laplace > 0 else 3
    # Patches in, raw output in both layouts, the image made: kept through the losses.
    found += Kept(FP32 * float(images * pixels * (3 + 3 + channels)), 0.0)
    # Losses of pixels are computed in fp32.
    found += Kept(saved(lambda: _pixel_terms(config, images), Numbers()))
    if perceptual:
        found += Kept(saved(lambda: _features(config.image_size, images), numbers))
    if config.loss.adversarial > 0:
        found += Kept(saved(lambda: _judged(config.discriminator, config.image_size, images, 1), numbers))
    return found


def judge(config: QuantizeConfig, images: int, numbers: Numbers) -> Kept:
    """Stage 1's second half in a step with R1, where there is that: real and made images, and the gradient's pass."""
    size, settings = config.image_size, config.discriminator
    found = saved(lambda: _judged(settings, size, images, 2), numbers)
    if settings.r1_gamma > 0:
        found += saved(lambda: _penalised(settings, size, images), numbers)
    return Kept(found)


def classifier(config: ClassifyConfig, classes: int, images: int, numbers: Numbers) -> Kept:
    """A pass over `images` images."""
    shape = ClassifierShape(config.image_size, classes, config.width, config.features, config.dropout)
    model = Classifier(shape).to("meta")
    # Gradients of two maps, and what the convolution between them lays out anew: fitted to two measured widths.
    widest = max(side * side * outputs for _, outputs, side in classifier_widths(config))
    return Kept(saved(lambda: model(_image(config.image_size, images)), numbers), 2.5 * images * widest * numbers.item)


def saved(work: Callable[[], object], numbers: Numbers) -> float:
    """Bytes of what autograd keeps of work on the meta device, each storage once, parameters left out.

    Counted in fp32; under bf16 taken as half, for convolutions work in it.
    """
    found: dict[int, Tensor] = {}

    def note(value: Tensor) -> Tensor:
        if not isinstance(value, nn.Parameter):
            found[value.untyped_storage()._cdata] = value
        return value

    with torch.autograd.graph.saved_tensors_hooks(note, lambda value: value):
        work()
    return sum(value.untyped_storage().nbytes() for value in found.values()) * numbers.item / FP32


def _image(size: int, images: int) -> Tensor:
    return torch.empty(images, 3, size, size, device="meta", requires_grad=True)


def _pixel_terms(config: QuantizeConfig, images: int) -> Tensor:
    """Losses of raw output on images, without a discriminator."""
    real, fake = _image(config.image_size, images).detach(), _image(config.image_size, images)
    terms = [F.mse_loss(fake, real)]
    if config.loss.l1 > 0:
        terms.append(F.l1_loss(fake, real))
    if config.loss.logit_laplace > 0:
        raw = torch.empty(images, 6, *real.shape[2:], device="meta", requires_grad=True)
        terms.append(logit_laplace(raw, real))
    return torch.stack(terms).sum()


def _features(size: int, images: int) -> Tensor:
    """LPIPS as its package computes it: VGG16's five groups of both images, normalised, squared differences."""
    total = torch.zeros((), device="meta")
    sides = [_image(size, images), _image(size, images).detach()]
    for index, group in enumerate(VGG16):
        for channels in group:
            weight = torch.empty(channels[1], channels[0], 3, 3, device="meta")
            sides = [F.relu_(F.conv2d(x, nn.Parameter(weight, requires_grad=False), padding=1)) for x in sides]
        unit = [x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10) for x in sides]
        total = total + (unit[0] - unit[1]).square().mean()
        if index + 1 < len(VGG16):
            sides = [F.max_pool2d(x, 2) for x in sides]
    return total


def _judged(config: DiscriminatorConfig, size: int, images: int, passes: int) -> list[Tensor]:
    """So many passes of the discriminator over images."""
    judge = _discriminator(config, size, images)
    return [judge(_image(size, images)) for _ in range(passes)]


def _penalised(config: DiscriminatorConfig, size: int, images: int) -> Tensor:
    """A pass with its gradient at the images, ready for a second backward pass."""
    real = _image(size, images)
    return r1_penalty(per_image(_discriminator(config, size, images)(real)), real)


def _discriminator(config: DiscriminatorConfig, size: int, images: int) -> nn.Module:
    with torch.device("meta"):
        made = make_discriminator(config, size)
    # Groups of the stddev layer cost nothing; one that does not divide the images is warned of elsewhere.
    made.group = math.gcd(getattr(made, "group", 1), images)
    return made


def classifier_widths(config: ClassifyConfig) -> list[tuple[int, int, int]]:
    """Channels in and out of each of the classifier's convolutions, and the side of its output."""
    widths = [config.width, config.width * 2, config.width * 4]
    side = -(-config.image_size // 2)
    found = [(3, widths[0], side)]
    for inputs, outputs in pairwise(widths):
        found.append((inputs, inputs, side))
        side = -(-side // 2)
        found.append((inputs, outputs, side))
    return [*found, (widths[-1], widths[-1], side)]
