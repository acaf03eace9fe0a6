"""Settings of stage 1."""

from __future__ import annotations

from dataclasses import dataclass, field

from vim_core.config.fields import added_later, execution, one_of, require
from vim_core.config.training import AugmentConfig, OptimConfig, StackConfig, TrainConfig


@dataclass
class RestartConfig:
    """Dead-code restarts: codes whose moving usage falls under `threshold` of the mean use are re-drawn."""

    every: int = 0
    threshold: float = 0.05
    decay: float = 0.95
    until: float = 0.8

    def __post_init__(self) -> None:
        require(self.every >= 0, "restart.every", self.every, "must be 0 (off) or positive")
        require(0 < self.until <= 1, "restart.until", self.until, "is a share of the steps, in (0, 1]")


@dataclass
class EntropyConfig:
    """Entropy term of the codebook: sure about each latent, spread over all codes (MAGVIT-v2, arXiv 2310.05737).

    `weight` 0 is off: the paper has none, restarts or low-dimensional codes mostly suffice. `diversity` weighs the
    entropy of the mean assignment, `temperature` divides the negative squared distances before the softmax.
    """

    weight: float = 0.0
    diversity: float = 1.0
    temperature: float = 0.01

    def __post_init__(self) -> None:
        require(self.weight >= 0, "entropy.weight", self.weight, "must be 0 (off) or positive")
        require(self.diversity >= 0, "entropy.diversity", self.diversity, "must not be negative")
        require(self.temperature > 0, "entropy.temperature", self.temperature, "must be positive")


@dataclass
class CodebookConfig:
    """Vector quantizer with factorized codes (paper section 3.2).

    `gradient` says what the encoder receives through the lookup: `straight_through` copies the decoder's gradient, as
    the paper does; `rotation` turns it back by the rotation from latent to code, so that gradients keep their angle to
    the code and points of one cell are told apart (arXiv 2410.06424).
    """

    codes: int = 8192
    dim: int = 32
    l2: bool = True
    commitment: float = 0.25
    gradient: str = "straight_through"
    entropy: EntropyConfig = field(default_factory=EntropyConfig)
    restart: RestartConfig = field(default_factory=RestartConfig)

    def __post_init__(self) -> None:
        require(2 <= self.codes <= 65_536, "codebook.codes", self.codes, "must lie in [2, 65536] (uint16 codes)")
        one_of("codebook.gradient", self.gradient, ("straight_through", "rotation"))


@dataclass
class LossConfig:
    """Weights of the tokenizer's loss terms (paper section 3.3).

    `l1` is not in the paper: it can stand in for logit-laplace, which Parti drops (arXiv 2206.10789, section 2.1).
    """

    l1: float = 0.0
    l2: float = 1.0
    logit_laplace: float = 0.1
    perceptual: float = 0.1
    perceptual_weights: str = ""
    perceptual_optional: bool = False
    adversarial: float = 0.1


@dataclass
class LeCamConfig:
    """LeCam regularisation: keeps a discriminator that wins from running away (arXiv 2104.03310).

    `weight` 0 is off (the paper regularises by R1 alone, as StyleGAN2 does); 0.001 is usual. `decay` is that of the
    moving averages of real and generated logits.
    """

    weight: float = 0.0
    decay: float = 0.999

    def __post_init__(self) -> None:
        require(self.weight >= 0, "lecam.weight", self.weight, "must be 0 (off) or positive")
        require(0 <= self.decay < 1, "lecam.decay", self.decay, "must lie in [0, 1)")


@dataclass
class DiscriminatorConfig:
    """Discriminator, trained from step 0; its gradient into the generator ramps up.

    `kind: stylegan` is the paper's (StyleGAN2's residual network), `patch` pix2pix's, cheaper but 2.3 FID worse in
    the paper's Table 4. `channels` limits the width; `base` (stylegan) is the width times the side, `patch_layers`
    (patch) the number of halvings. `spectral_norm` divides every weight by its largest singular value, which the
    retrained ViT-VQGAN of arXiv 2412.09607 needed for stability.
    """

    kind: str = "stylegan"
    channels: int = 512
    base: int = 32768
    patch_layers: int = 3
    spectral_norm: bool = False
    lecam: LeCamConfig = field(default_factory=LeCamConfig)
    ramp_start: int = 0
    ramp_steps: int = 0
    r1_gamma: float = 10.0
    r1_every: int = 16
    stddev_group: int = 4
    optim: OptimConfig = field(default_factory=OptimConfig)

    def __post_init__(self) -> None:
        one_of("discriminator.kind", self.kind, ("stylegan", "patch"))
        require(self.patch_layers > 0, "discriminator.patch_layers", self.patch_layers, "must be positive")


@dataclass
class QuantizeConfig(TrainConfig):
    """Stage 1: ViT-VQGAN. `recompute` as in `PriorConfig`.

    `init_from` is the folder of a tokenizer (an artifact's, or one with `model.safetensors` and `config.json`) whose
    encoder and codebook to start from; its decoder too with `init_decoder: load`, else the decoder is new and may have
    another size. `freeze_encoder` leaves encoder and codebook as they are, so that codes stay the same bit for bit: how
    Parti gives a trained tokenizer a larger decoder without logit-laplace (arXiv 2206.10789, section 2.1).

    `tanh` says where the paper's tanh is ("at the output of the transformer blocks", section 3.1): in a two-layer
    `head` behind either stack, or inside the `blocks`, in the place of GELU and with no head, as enhancing-transformers
    reads it, whose published weights need that.
    """

    image_size: int = 256
    patch: int = 8
    positions: str = "learned"
    encoder: StackConfig = field(default_factory=StackConfig)
    decoder: StackConfig = field(default_factory=StackConfig)
    codebook: CodebookConfig = field(default_factory=CodebookConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    discriminator: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    tanh: str = added_later("head")
    encode_batch: int = 32
    # Where the weights lie does not matter, what they are does: their digest enters the fingerprint.
    init_from: str = execution("")
    init_decoder: str = "fresh"
    freeze_encoder: bool = False
    recompute: bool = execution(False)

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
        one_of("quantize.init_decoder", self.init_decoder, ("fresh", "load"))
        if self.init_decoder == "load":
            require(bool(self.init_from), "quantize.init_decoder", "load", "needs quantize.init_from to load from")
        if self.freeze_encoder:
            self._check_frozen()

    def _check_frozen(self) -> None:
        require(bool(self.init_from), "quantize.freeze_encoder", True, "needs quantize.init_from, a trained tokenizer")
        rule = "must be 0 with quantize.freeze_encoder=true: the codebook does not move"
        require(self.codebook.restart.every == 0, "quantize.codebook.restart.every", self.codebook.restart.every, rule)
        require(
            self.codebook.entropy.weight == 0, "quantize.codebook.entropy.weight", self.codebook.entropy.weight, rule
        )
