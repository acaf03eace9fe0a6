"""Settings of stage 1."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from vim_core.config.fields import (
    Amount,
    Count,
    PositiveFloat,
    PositiveInt,
    PositiveShare,
    Range,
    Ranged,
    Share,
    ShareBelowOne,
    added_later,
    execution,
    one_of,
    require,
)
from vim_core.config.training import AugmentConfig, OptimConfig, StackConfig, TrainConfig


@dataclass
class RestartConfig(Ranged):
    """Dead-code restarts: every `every` steps (0: off) codes used less than `threshold` of the mean are replaced.

    Usage is a moving average with `decay`; restarts end after the share `until` of the steps.
    """

    every: Count = 0
    threshold: Amount = 0.05
    decay: ShareBelowOne = 0.95
    until: PositiveShare = 0.8


@dataclass
class EntropyConfig(Ranged):
    """Entropy term of the codebook: low entropy per latent, high entropy of the mean (MAGVIT-v2, arXiv 2310.05737).

    `weight` 0 is off: the paper has no such term. `diversity` weighs the entropy of the mean assignment, `temperature`
    divides the negative squared distances before the softmax.
    """

    weight: Amount = 0.0
    diversity: Amount = 1.0
    temperature: PositiveFloat = 0.01


@dataclass
class CodebookConfig(Ranged):
    """Vector quantizer with factorized codes (paper section 3.2).

    `gradient` is the encoder's gradient through the lookup: `straight_through` copies the decoder's, as the paper does;
    `rotation` applies the inverse of the rotation from latent to code, so that gradients keep their angle to the code
    (arXiv 2410.06424).

    `codes` is their number, `dim` the length of each one, with `l2` on the unit sphere. `commitment` weighs the pull of
    the encoder towards the codes.
    """

    codes: Annotated[int, Range(2, 65_536)] = 8192
    dim: PositiveInt = 32
    l2: bool = True
    commitment: Amount = 0.25
    gradient: str = "straight_through"
    entropy: EntropyConfig = field(default_factory=EntropyConfig)
    restart: RestartConfig = field(default_factory=RestartConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("codebook.gradient", self.gradient, ("straight_through", "rotation"))


@dataclass
class LossConfig(Ranged):
    """Weights of the tokenizer's loss terms (paper section 3.3).

    `l1` is not in the paper: it can replace logit-laplace, which Parti drops (arXiv 2206.10789, section 2.1).

    `l2`, `logit_laplace`, `perceptual` and `adversarial` are the weights of these terms. `perceptual_weights` is the
    file of VGG's weights; without it the term is refused, or left out where `perceptual_optional` is true. The file's
    sha256 must begin with `perceptual_sha256` (empty: torchvision's), which counts where it is set.
    """

    l1: Amount = 0.0
    l2: Amount = 1.0
    logit_laplace: Amount = 0.1
    perceptual: Amount = 0.1
    perceptual_weights: str = ""
    perceptual_optional: bool = False
    # Part of the fingerprint by `source_state` of the component, so that settings from before it keep theirs.
    perceptual_sha256: str = execution("")
    adversarial: Amount = 0.1


@dataclass
class LeCamConfig(Ranged):
    """LeCam regularisation of the discriminator's logits (arXiv 2104.03310).

    `weight` 0 is off (the paper regularises by R1 alone, as StyleGAN2 does); 0.001 is usual. `decay` is that of the
    moving averages of real and generated logits.
    """

    weight: Amount = 0.0
    decay: ShareBelowOne = 0.999


@dataclass
class DiscriminatorConfig(Ranged):
    """Discriminator, trained from step 0; the adversarial weight ramps up in `ramp_steps` from `ramp_start`.

    `kind: stylegan` is the paper's (StyleGAN2's residual network), `patch` pix2pix's, cheaper but 2.3 FID worse in
    the paper's Table 4. `channels` limits the width; `base` (stylegan) is the width times the side, `patch_layers`
    (patch) the number of halvings. `spectral_norm` divides every weight by its largest singular value, which the
    retrained ViT-VQGAN of arXiv 2412.09607 needed for stability.

    `r1_gamma` weighs the gradient penalty on real images, which is computed every `r1_every` steps. The gradient is at
    images in [0, 1], StyleGAN2's at [-1, 1], where it is half as large: 10, the default and every preset's, is 40 in
    that convention, and StyleGAN2's 10 is 2.5 here. `stddev_group` is the size of the groups of images whose spread
    the last layer sees.
    """

    kind: str = "stylegan"
    channels: PositiveInt = 512
    base: PositiveInt = 32768
    patch_layers: PositiveInt = 3
    spectral_norm: bool = False
    lecam: LeCamConfig = field(default_factory=LeCamConfig)
    ramp_start: Count = 0
    ramp_steps: Count = 0
    r1_gamma: Amount = 10.0
    r1_every: PositiveInt = 16
    stddev_group: PositiveInt = 4
    optim: OptimConfig = field(default_factory=OptimConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("discriminator.kind", self.kind, ("stylegan", "patch"))


@dataclass
class QuantizeConfig(TrainConfig):
    """Stage 1: ViT-VQGAN. `recompute` as in `PriorConfig`.

    `init_from` is the folder of a tokenizer (an artifact, or one with `model.safetensors` and `config.json`) that
    encoder and codebook are loaded from, with `init_decoder: load` also the decoder; otherwise the decoder is new and
    may have another size. `freeze_encoder` does not train encoder and codebook, so that codes stay the same bit for
    bit, as Parti does for a larger decoder without logit-laplace (arXiv 2206.10789, section 2.1).

    `tanh` is the place of the paper's tanh ("at the output of the transformer blocks", section 3.1): in a two-layer
    `head` after each stack, or inside the `blocks` instead of GELU and without a head, as in enhancing-transformers,
    whose published weights need that.

    Evaluations during the training (`evaluate_every`) count the codes that 256 held-out images use, as the paper does.
    From `usage_grace` steps on a share below `usage_alarm` is reported, and one below `usage_halt` ends the training at
    its next checkpoint (0: never).

    `image_size` is the side of the images, `patch` that of the patches, each of which becomes one code. `positions` is
    the kind of position embedding. `encode_batch` images are encoded at once wherever codes are made, because the batch
    may change the last bits.
    """

    image_size: PositiveInt = 256
    patch: PositiveInt = 8
    positions: str = "learned"
    encoder: StackConfig = field(default_factory=StackConfig)
    decoder: StackConfig = field(default_factory=StackConfig)
    codebook: CodebookConfig = field(default_factory=CodebookConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    discriminator: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    tanh: str = added_later("head")
    encode_batch: PositiveInt = 32
    # An address; the digest of the weights enters the fingerprint.
    init_from: str = execution("")
    init_decoder: str = "fresh"
    freeze_encoder: bool = False
    recompute: bool = execution(False)
    usage_alarm: Share = execution(0.1)
    usage_halt: Share = execution(0.0)
    usage_grace: Count = execution(1000)

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("quantize.positions", self.positions, ("learned", "sincos"))
        one_of("quantize.tanh", self.tanh, ("head", "blocks"))
        rule = f"must be divisible by quantize.patch={self.patch}"
        require(self.image_size % self.patch == 0, "quantize.image_size", self.image_size, rule)
        if self.loss.adversarial > 0 and self.discriminator.kind == "stylegan":
            base = self.discriminator.base
            rule = f"must be at least quantize.image_size={self.image_size}, or its first layers have no channels"
            require(base >= self.image_size, "quantize.discriminator.base", base, rule)
        if self.usage_halt > 0:
            rule = (
                "needs evaluations of 256 images or more; set quantize.evaluate_every, and evaluate_limit 0 or >= 256"
            )
            measured = self.evaluate_every > 0 and not 0 < self.evaluate_limit < 256
            require(measured, "quantize.usage_halt", self.usage_halt, rule)
        one_of("quantize.init_decoder", self.init_decoder, ("fresh", "load"))
        if self.init_decoder == "load":
            require(bool(self.init_from), "quantize.init_decoder", "load", "needs quantize.init_from to load from")
        if self.freeze_encoder:
            key, every, weight = "quantize.freeze_encoder", self.codebook.restart.every, self.codebook.entropy.weight
            require(bool(self.init_from), key, True, "needs quantize.init_from, a trained tokenizer")
            rule = f"must be 0 with {key}=true: the codebook does not change"
            require(every == 0, "quantize.codebook.restart.every", every, rule)
            require(weight == 0, "quantize.codebook.entropy.weight", weight, rule)
