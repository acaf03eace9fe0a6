"""Floating point operations of a training step, as pure functions of the settings.

The counts are those of the networks' matrix products and convolutions, two operations a multiply-add: no recomputation
(activation checkpointing, flash attention's backward), no padding, no element-wise work (norms, also of queries and
keys), no optimizer, no power iteration of spectral norm. A share of a peak rate made from them is a model FLOPs
utilisation (Chowdhery et al. 2022, PaLM, appendix B), with one difference: causal attention counts T (T + 1) / 2 pairs
of tokens, because a kernel may skip the rest; PaLM counts all T T.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

from vim_core.config import DiscriminatorConfig, QuantizeConfig, StackConfig
from vim_core.layers.modern import swiglu_width
from vim_core.models.prior import PriorShape
from vim_core.planning.chips import chip_of_device

FlopsByPart = dict[str, float]
"""Operations of one step over the global batch by part of the network; their sum is the step's."""

VGG16 = (
    ((3, 64), (64, 64)),
    ((64, 128), (128, 128)),
    ((128, 256), (256, 256), (256, 256)),
    ((256, 512), (512, 512), (512, 512)),
    ((512, 512), (512, 512), (512, 512)),
)
"""Channels of VGG16's 3x3 convolutions up to relu5_3; each group works at half the resolution of the one before."""


def linear(rows: int, inputs: int, outputs: int) -> float:
    """The product of [rows, inputs] and [inputs, outputs]."""
    return 2.0 * rows * inputs * outputs


def convolution(size: int, kernel: int, inputs: int, outputs: int) -> float:
    """A square convolution whose output is `size` pixels wide; a depthwise one has `inputs=1`."""
    return 2.0 * size * size * kernel * kernel * inputs * outputs


def attention(tokens: int, dim: int, pairs: str) -> float:
    """Scores and weighted values of all heads; `pairs` of tokens are 'full' (T T) or 'causal' (T (T + 1) / 2)."""
    counted = tokens * tokens if pairs == "full" else tokens * (tokens + 1) // 2
    return 4.0 * counted * dim


def stack(config: StackConfig, tokens: int, pairs: str, variant: str = "paper") -> float:
    """Forward pass of one image's tokens through a stack of blocks, `variant` as in `PriorConfig`."""
    width = 2 * config.mlp if variant == "paper" else 3 * swiglu_width(config.mlp)
    products = linear(tokens, config.dim, 4 * config.dim) + linear(tokens, config.dim, width)
    return config.blocks * (products + attention(tokens, config.dim, pairs))


@dataclass(frozen=True)
class ConvolutionFlops:
    """Operations of a convolutional network's forward pass of one image.

    `learned` are all layers with weights, `first` the first of them, `fixed` filters without weights.
    """

    learned: float
    first: float
    fixed: float = 0.0

    @property
    def forward(self) -> float:
        """All layers; the gradient with respect to the input costs the same."""
        return self.learned + self.fixed


def discriminator(config: DiscriminatorConfig, image_size: int) -> ConvolutionFlops:
    """The discriminator of `config.kind`."""
    return (patch_discriminator if config.kind == "patch" else stylegan_discriminator)(config, image_size)


def patch_discriminator(config: DiscriminatorConfig, image_size: int) -> ConvolutionFlops:
    """The discriminator of pix2pix: 4x4 convolutions, the last two without a stride."""
    layers = config.patch_layers
    widths = [3, *(config.channels * min(2**level, 8) // 8 for level in range(layers + 1)), 1]
    sizes = [image_size >> level for level in range(1, layers + 1)]
    sizes += [sizes[-1] - 1, sizes[-1] - 2]
    parts = [convolution(size, 4, *pair) for size, pair in zip(sizes, pairwise(widths), strict=True)]
    return ConvolutionFlops(sum(parts), parts[0])


def stylegan_discriminator(config: DiscriminatorConfig, image_size: int) -> ConvolutionFlops:
    """The discriminator of StyleGAN2: per block two fixed 4x4 filters, one strided, and three convolutions."""

    def channels(size: int) -> int:
        return min(config.base // size, config.channels)

    first = convolution(image_size, 1, 3, channels(image_size))
    learned, fixed, size = first, 0.0, image_size
    while size > 4:
        wide, narrow = channels(size), channels(size // 2)
        learned += convolution(size, 3, wide, wide)
        learned += convolution(size // 2, 3, wide, narrow) + convolution(size // 2, 1, wide, narrow)
        fixed += convolution(size + 1, 4, 1, wide) + convolution(size // 2, 4, 1, wide)
        size //= 2
    top = channels(4)  # the last convolution also sees the minibatch standard deviation
    learned += convolution(4, 3, top + 1, top) + linear(1, 16 * top, top) + linear(1, top, 1)
    return ConvolutionFlops(learned, first, fixed)


def perceptual(image_size: int) -> float:
    """Forward pass of one image through VGG16 up to relu5_3."""
    sizes = [image_size >> level for level in range(len(VGG16))]
    return sum(convolution(size, 3, *layer) for size, group in zip(sizes, VGG16, strict=True) for layer in group)


def encoder(config: QuantizeConfig) -> float:
    """Forward pass of one image to its latents, without the codebook lookup."""
    tokens, settings = (config.image_size // config.patch) ** 2, config.encoder
    head = linear(tokens, settings.dim, config.codebook.dim)
    head += 2 * linear(tokens, settings.dim, settings.mlp) if config.tanh == "head" else 0.0
    return embedding(config) + stack(settings, tokens, "full") + head


def embedding(config: QuantizeConfig) -> float:
    """The encoder's first layer, from the pixels of one image."""
    tokens = (config.image_size // config.patch) ** 2
    return linear(tokens, 3 * config.patch**2, config.encoder.dim)


def lookup(config: QuantizeConfig) -> float:
    """Products of the latents of one image with every code."""
    return linear((config.image_size // config.patch) ** 2, config.codebook.dim, config.codebook.codes)


def decoder(config: QuantizeConfig) -> float:
    """Forward pass of one image's code vectors to pixels."""
    tokens, settings = (config.image_size // config.patch) ** 2, config.decoder
    channels = 6 if config.loss.logit_laplace > 0 else 3
    pixels = config.patch**2 * channels
    head = linear(tokens, settings.dim, settings.mlp) + linear(tokens, settings.mlp, pixels)
    head = head if config.tanh == "head" else linear(tokens, settings.dim, pixels)
    return decoder_embedding(config) + stack(settings, tokens, "full") + head


def decoder_embedding(config: QuantizeConfig) -> float:
    """The decoder's first layer, from the code vectors of one image."""
    return linear((config.image_size // config.patch) ** 2, config.codebook.dim, config.decoder.dim)


def quantizer_step(config: QuantizeConfig, perceptual_loss: bool = False) -> FlopsByPart:
    """Stage 1 by part: `generator`, `lookup`, and where the settings have them `entropy`, `discriminator`, `r1`,
    `perceptual`.

    A backward pass costs the forward pass twice: once for the gradient of every layer's input, once for that of its
    weights. Images need no gradient, so first layers save one of them. A frozen encoder has no backward pass. The
    discriminator runs on reconstructions in the generator's step (without gradients of its weights), then on real
    images and reconstructions in its own. R1 is one penalty (forward, gradient at the images, backward through both)
    over `r1_every`.
    """
    forward = encoder(config), decoder(config)
    if config.freeze_encoder:
        generator = forward[0] + 3 * forward[1] - decoder_embedding(config)
    else:
        generator = 3 * (forward[0] + forward[1]) - embedding(config)
    parts = {"generator": generator, "lookup": lookup(config)}
    if config.codebook.entropy.weight > 0:
        parts["entropy"] = 3 * lookup(config)
    if config.loss.adversarial > 0:
        settings = config.discriminator
        cost = discriminator(settings, config.image_size)
        in_generator_step = 2 * cost.forward
        parts["discriminator"] = in_generator_step + 2 * (2 * cost.forward + cost.learned - cost.first)
        if settings.r1_gamma > 0:
            parts["r1"] = (4 * cost.forward + 2 * cost.learned) / settings.r1_every
    if perceptual_loss:
        parts["perceptual"] = 3 * perceptual(config.image_size)
    return {name: config.batch * value for name, value in parts.items()}


def prior_step(
    shape: PriorShape, batch: int, pairs: str = "causal", tokenizer: QuantizeConfig | None = None
) -> FlopsByPart:
    """Stage 2 by part: `blocks`, `attention` (scores and values only), `head`, and `tokenizer` where it encodes images.

    `batch` is the global one; `pairs` is explained in `attention`.
    """
    tokens, dim, blocks = shape.tokens, shape.stack.dim, shape.stack.blocks
    scores = blocks * attention(tokens, dim, pairs)
    parts = {
        "blocks": stack(shape.stack, tokens, pairs, shape.variant) - scores,
        "attention": scores,
        "head": linear(tokens, dim, shape.vocabulary),
    }
    step = {name: 3.0 * batch * value for name, value in parts.items()}
    if tokenizer is None:
        return step
    return step | {"tokenizer": batch * (encoder(tokenizer) + lookup(tokenizer))}


def published_peak(device: str, dtype: str) -> float | None:
    """The published peak of a device in FLOP/s for products in `dtype`; None where unknown (a slice of a GPU, too)."""
    chip = chip_of_device(device)
    return None if chip is None else chip.peak(dtype)


@dataclass(frozen=True)
class PeakRates:
    """Peak rates of all devices of a training together, in FLOP/s; None where unknown."""

    published: float | None = None
    measured: float | None = None

    def shares(self, rate: float) -> dict[str, float]:
        """`mfu` (share of the published peak) and `share_of_measured` (of the measured product rate), where known."""
        known = {"mfu": self.published, "share_of_measured": self.measured}
        return {name: rate / peak for name, peak in known.items() if peak and math.isfinite(rate)}
