"""Plain dataclasses for every component's settings.

`components/settings.py` merges presets and command-line overrides into them. Every field changes the
result and enters the component's fingerprint, except those made with `where`: they only say where or
how the work runs. A field that nothing reads fails a test.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from vim_core.errors import ConfigError


def where(default: Any) -> Any:
    """A field that says how the work runs and never changes its result: left out of fingerprints."""
    return field(default=default, metadata={"where": True})


def require(condition: bool, key: str, value: object, rule: str) -> None:
    """Raise `ConfigError` naming the key, its value and the rule unless `condition` holds."""
    if not condition:
        raise ConfigError(f"{key}={value!r}: {rule}")


def one_of(key: str, value: str, choices: tuple[str, ...]) -> None:
    """Raise `ConfigError` unless `value` is one of `choices`."""
    require(value in choices, key, value, f"must be one of {', '.join(choices)}")


@dataclass
class AugmentConfig:
    """Random view of an image; the defaults leave it as it is.

    A crop covers an area share in [min_scale, 1] with an aspect ratio in [1/max_aspect, max_aspect];
    then flip, rotation, zoom and shift are drawn uniformly.
    """

    min_scale: float = 1.0
    max_aspect: float = 1.0
    flip: float = 0.0
    rotate_degrees: float = 0.0
    zoom: float = 0.0
    shift: float = 0.0

    def __post_init__(self) -> None:
        require(0 < self.min_scale <= 1, "augment.min_scale", self.min_scale, "must lie in (0, 1]")
        require(self.max_aspect >= 1, "augment.max_aspect", self.max_aspect, "must be at least 1")
        require(0 <= self.flip <= 1, "augment.flip", self.flip, "is a probability")
        require(0 <= self.zoom < 1, "augment.zoom", self.zoom, "must lie in [0, 1)")
        require(0 <= self.shift < 1, "augment.shift", self.shift, "is a share of the side, in [0, 1)")


@dataclass
class StackConfig:
    """A stack of transformer blocks (paper Table 2)."""

    blocks: int = 8
    heads: int = 8
    dim: int = 512
    mlp: int = 2048

    def __post_init__(self) -> None:
        require(self.dim % self.heads == 0, "dim", self.dim, f"must be divisible by heads={self.heads}")


@dataclass
class OptimConfig:
    """AdamW with warm-up and decay; the schedule is a pure function of the step."""

    lr: float = 1e-4
    final_lr: float = 5e-5
    warmup: int = 0
    decay: str = "cosine"
    decay_start: int = 0
    beta1: float = 0.9
    beta2: float = 0.99
    weight_decay: float = 1e-4
    clip_norm: float = 0.0

    def __post_init__(self) -> None:
        one_of("decay", self.decay, ("cosine", "exponential", "constant"))
        require(self.lr > 0, "lr", self.lr, "must be positive")
        require(self.final_lr > 0, "final_lr", self.final_lr, "must be positive")


@dataclass
class TrainConfig:
    """What every training component shares."""

    steps: int = 1000
    batch: int = 64
    seed: int = 0
    precision: str = "auto"
    ema: float = 0.0
    optim: OptimConfig = field(default_factory=OptimConfig)
    log_every: int = where(20)
    checkpoint_every: int = where(200)

    def __post_init__(self) -> None:
        one_of("precision", self.precision, ("auto", "fp32", "bf16"))
        require(self.steps > 0, "steps", self.steps, "must be positive")
        require(self.batch > 0, "batch", self.batch, "must be positive")
        require(0 <= self.ema < 1, "ema", self.ema, "must lie in [0, 1)")


@dataclass
class IngestConfig:
    """Images in, image table out.

    `source` is `builtin:digits` or a local or remote folder of class folders; with `split: folders` it
    has `train/` and `val/` above them, with `split: hash` a share `test_fraction` of the keys is held out.
    """

    source: str = "builtin:digits"
    source_digest: str = ""
    classes: list[str] = field(default_factory=list)
    split: str = "hash"
    test_fraction: float = 0.165
    resize: int = 0
    limit: int = 0
    shards: int = 4
    max_bad_share: float = 0.01
    max_pixels: int = 100_000_000

    def __post_init__(self) -> None:
        one_of("ingest.split", self.split, ("hash", "folders"))
        require(0 < self.test_fraction < 1, "ingest.test_fraction", self.test_fraction, "must lie in (0, 1)")
        require(0 <= self.max_bad_share <= 1, "ingest.max_bad_share", self.max_bad_share, "must lie in [0, 1]")
        require(self.shards > 0, "ingest.shards", self.shards, "must be positive")


@dataclass
class ClassifyConfig(TrainConfig):
    """A small convolutional classifier of the ingested images."""

    image_size: int = 32
    width: int = 32
    features: int = 64
    dropout: float = 0.1
    augment: AugmentConfig = field(default_factory=AugmentConfig)


@dataclass
class StatisticsConfig:
    """Reference statistics of real images under one feature network.

    `split` is what others are compared with. The images of the splits in `halves` are divided in two, whose distance
    shows what real images score against real ones; take as many as there are, because small sets lie further apart.
    """

    network: str = "classifier"
    split: str = "test"
    halves: list[str] = field(default_factory=lambda: ["test"])
    batch: int = 64

    def __post_init__(self) -> None:
        one_of("statistics.network", self.network, ("classifier",))
        require(bool(self.halves), "statistics.halves", self.halves, "must name a split")
        for split in (self.split, *self.halves):
            one_of("statistics.split" if split == self.split else "statistics.halves", split, ("train", "test"))


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
class CodebookConfig:
    """Vector quantizer with factorized codes (paper section 3.2)."""

    codes: int = 8192
    dim: int = 32
    l2: bool = True
    commitment: float = 0.25
    restart: RestartConfig = field(default_factory=RestartConfig)

    def __post_init__(self) -> None:
        require(2 <= self.codes <= 65_536, "codebook.codes", self.codes, "must lie in [2, 65536] (uint16 codes)")


@dataclass
class LossConfig:
    """Weights of the tokenizer's loss terms (paper section 3.3)."""

    l2: float = 1.0
    logit_laplace: float = 0.1
    perceptual: float = 0.1
    perceptual_weights: str = ""
    perceptual_optional: bool = False
    adversarial: float = 0.1


@dataclass
class DiscriminatorConfig:
    """StyleGAN-style discriminator, trained from step 0; its gradient into the generator ramps up."""

    channels: int = 512
    base: int = 32768
    ramp_start: int = 0
    ramp_steps: int = 0
    r1_gamma: float = 10.0
    r1_every: int = 16
    stddev_group: int = 4
    optim: OptimConfig = field(default_factory=OptimConfig)


@dataclass
class QuantizeConfig(TrainConfig):
    """Stage 1: ViT-VQGAN."""

    image_size: int = 256
    patch: int = 8
    positions: str = "learned"
    encoder: StackConfig = field(default_factory=StackConfig)
    decoder: StackConfig = field(default_factory=StackConfig)
    codebook: CodebookConfig = field(default_factory=CodebookConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    discriminator: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    encode_batch: int = 32

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("quantize.positions", self.positions, ("learned", "sincos"))
        rule = f"must be divisible by quantize.patch={self.patch}"
        require(self.image_size % self.patch == 0, "quantize.image_size", self.image_size, rule)


@dataclass
class TokenizeConfig:
    """Image table to code table; view 0 is the plain image, the others are augmented."""

    views: int = 1
    seed: int = 0
    augment: AugmentConfig = field(default_factory=AugmentConfig)

    def __post_init__(self) -> None:
        require(self.views > 0, "tokenize.views", self.views, "must be positive")


@dataclass
class ReconstructConfig:
    """Held-out images through the tokenizer and back."""

    limit: int = 0


@dataclass
class PriorConfig(TrainConfig):
    """Stage 2: decoder-only Transformer over the codes."""

    stack: StackConfig = field(default_factory=StackConfig)
    dropout: float = 0.1
    conditional: bool = True
    label_dropout: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.dropout < 1, "prior.dropout", self.dropout, "must lie in [0, 1)")
        require(0 <= self.label_dropout < 1, "prior.label_dropout", self.label_dropout, "must lie in [0, 1)")


@dataclass
class SampleConfig:
    """Images drawn from the prior; labels are balanced over the classes."""

    count: int = 1000
    seed: int = 0
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    guidance: float = 1.0
    lanes: int = 64
    precision: str = "fp32"
    shards: int = 4

    def __post_init__(self) -> None:
        require(self.count > 0, "sample.count", self.count, "must be positive")
        require(self.temperature > 0, "sample.temperature", self.temperature, "must be positive")
        require(0 < self.top_p <= 1, "sample.top_p", self.top_p, "must lie in (0, 1]")
        require(self.top_k >= 0, "sample.top_k", self.top_k, "must be 0 (off) or positive")
        require(self.lanes > 0, "sample.lanes", self.lanes, "must be positive")
        one_of("sample.precision", self.precision, ("fp32", "bf16"))


@dataclass
class ScoreConfig:
    """Figures of samples and reconstructions against real images."""

    usage_batch: int = 256
    batch: int = 64


@dataclass
class ProbeConfig:
    """Linear probe on mean-pooled features of every block (paper section 4.2)."""

    steps: int = 400
    seed: int = 0
    lr: float = 0.02
    weight_decays: list[float] = field(default_factory=lambda: [1e-4, 1e-3, 1e-2])
    validation_share: float = 0.15
    batch: int = 2048


@dataclass
class ReportConfig:
    """One page of what the run made."""

    title: str = "VIM"
    samples_per_class: int = 8
    max_classes: int = 20
    reconstructions: int = 16


@dataclass
class RunConfig:
    """Where the pipeline runs and where it keeps things; never part of a fingerprint."""

    root: str = where("artifacts")
    tracking_uri: str = where("")
    threads: int = where(0)
    device: str = where("auto")
    workers: int = where(1)
    data_workers: int = where(0)
    restarts: int = where(3)
    ray_address: str = where("")
    beam_runner: str = where("FnApiRunner")
    beam_processes: int = where(1)
    system_metrics: bool = where(True)

    def __post_init__(self) -> None:
        one_of("run.device", self.device, ("auto", "cpu", "cuda"))
        require(self.workers > 0, "run.workers", self.workers, "must be positive")


@dataclass
class PipelineConfig:
    """A whole preset: which components run, and each one's settings under its own name."""

    preset: str = "custom"
    components: list[str] = field(default_factory=list)
    run: RunConfig = field(default_factory=RunConfig)
    ingest: IngestConfig = field(default_factory=IngestConfig)
    classify: ClassifyConfig = field(default_factory=ClassifyConfig)
    statistics: StatisticsConfig = field(default_factory=StatisticsConfig)
    quantize: QuantizeConfig = field(default_factory=QuantizeConfig)
    tokenize: TokenizeConfig = field(default_factory=TokenizeConfig)
    reconstruct: ReconstructConfig = field(default_factory=ReconstructConfig)
    prior: PriorConfig = field(default_factory=PriorConfig)
    sample: SampleConfig = field(default_factory=SampleConfig)
    score: ScoreConfig = field(default_factory=ScoreConfig)
    probe: ProbeConfig = field(default_factory=ProbeConfig)
    report: ReportConfig = field(default_factory=ReportConfig)
