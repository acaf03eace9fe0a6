"""Settings of stage 2 and of sampling from it."""

from __future__ import annotations

from dataclasses import dataclass, field

from vim_core.config.fields import (
    Amount,
    Count,
    PositiveFloat,
    PositiveInt,
    PositiveShare,
    Ranged,
    Seed,
    ShareBelowOne,
    execution,
    one_of,
    require,
)
from vim_core.config.training import STORED_PRECISION, AugmentConfig, StackConfig, TrainConfig


@dataclass
class PriorConfig(TrainConfig):
    """Stage 2: decoder-only Transformer over the codes.

    `variant` is the paper's network or a `modern` one (RMSNorm, SwiGLU, 2D RoPE, QK-norm). The paper has dropout at
    three places of a block; `embedding_dropout` adds a fourth, on the embedded codes. `recompute` is activation
    checkpointing: a block keeps only its input and runs again in the backward pass.

    `source: codes` reads the code table's views; `images` augments and encodes every image at each use, as the paper
    does, and reads only the held-out codes from the table; `augment` is for `source: images`. At every checkpoint
    `preview` images are sampled and logged (0: none).

    `dropout` is that of all three places. A `conditional` prior learns classes; `label_dropout` is the share of
    training samples whose class is hidden, which guidance and the probe need.
    """

    source: str = "codes"
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    stack: StackConfig = field(default_factory=StackConfig)
    variant: str = "paper"
    dropout: ShareBelowOne = 0.1
    embedding_dropout: bool = True
    conditional: bool = True
    label_dropout: ShareBelowOne = 0.0
    preview: Count = execution(16)
    recompute: bool = execution(False)

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("prior.source", self.source, ("codes", "images"))
        rule = "is for prior.source=images; the views of a code table are set by tokenize.augment"
        require(self.source == "images" or self.augment == AugmentConfig(), "prior.augment", self.augment, rule)
        rule = "is for prior.source=images"
        require(self.source == "images" or self.image_decoding == "full", "prior.image_decoding", "scaled", rule)
        one_of("prior.variant", self.variant, ("paper", "modern"))


@dataclass
class SampleConfig(Ranged):
    """Images sampled from the prior; labels are balanced over the classes.

    `guidance_schedule` lets guidance rise from code to code (see `vim_core.sampling.logits.guidance_scales`), earlier
    with a smaller `guidance_power`. `classes` are names, or numbers as text ("3"); empty for all. With `prefix` above 0
    held-out images are completed, of whose rows of codes the upper share `prefix` is given.

    `count` is the number of images, and `seed` draws them. Logits are divided by `temperature`; of the codes the
    `top_k` likeliest remain (0: all), and of these the likeliest with the total probability `top_p` (1: all).
    `guidance` above 1 strengthens the class. `lanes` images are drawn side by side, in `precision`, and written to
    `shards` files.
    """

    count: PositiveInt = 1000
    seed: Seed = 0
    temperature: PositiveFloat = 1.0
    top_k: Count = 0
    top_p: PositiveShare = 1.0
    guidance: Amount = 1.0
    guidance_schedule: str = "constant"
    guidance_power: PositiveFloat = 1.0
    classes: list[str] = field(default_factory=list)
    prefix: ShareBelowOne = 0.0
    lanes: PositiveInt = 64
    precision: str = "fp32"
    shards: PositiveInt = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("sample.guidance_schedule", self.guidance_schedule, ("constant", "linear", "cosine"))
        rule = "is for a guidance_schedule that rises; set sample.guidance_schedule=linear or cosine"
        rises = self.guidance_schedule != "constant"
        require(rises or self.guidance_power == 1, "sample.guidance_power", self.guidance_power, rule)
        rule = "needs sample.guidance other than 1"
        require(self.guidance != 1 or not rises, "sample.guidance_schedule", self.guidance_schedule, rule)
        one_of("sample.precision", self.precision, ("highest", "bf16", "fp32"))
        self.precision = STORED_PRECISION.get(self.precision, self.precision)
