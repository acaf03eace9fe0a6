"""Settings that several components share: augmentation, transformer stacks, optimizers, training."""

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
    Seed,
    Share,
    ShareBelowOne,
    execution,
    new_setting,
    one_of,
    require,
)

STORED_PRECISION = {"highest": "fp32", "tf32": "high"}
"""Other names of a precision, and the one under which it is stored and fingerprinted."""


@dataclass
class AugmentConfig(Ranged):
    """Random view of an image; the defaults do not change it.

    A crop covers an area share in [min_scale, 1] with an aspect ratio in [1/max_aspect, max_aspect];
    then flip, rotation, zoom and shift are drawn uniformly.

    `min_scale` and `max_aspect` limit the crop. `flip` is the probability of a mirror image, `rotate_degrees` the
    largest angle, `zoom` and `shift` the largest shares by which the size and the place change.
    """

    min_scale: PositiveShare = 1.0
    max_aspect: Annotated[float, Range(1)] = 1.0
    flip: Share = 0.0
    rotate_degrees: Amount = 0.0
    zoom: ShareBelowOne = 0.0
    shift: ShareBelowOne = 0.0


@dataclass
class StackConfig(Ranged):
    """A stack of transformer blocks (paper Table 2).

    `blocks` is the number of blocks, `heads` that of attention heads, `dim` the width and `mlp` the width between the
    two layers of a block's MLP.
    """

    blocks: PositiveInt = 8
    heads: PositiveInt = 8
    dim: PositiveInt = 512
    mlp: PositiveInt = 2048

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.dim % self.heads == 0, "dim", self.dim, f"must be divisible by heads={self.heads}")


@dataclass
class OptimConfig(Ranged):
    """Adam with decoupled weight decay, warm-up and decay; the schedule is a pure function of the step.

    `kind: factored` keeps the second moment of matrices as row and column means (`vim_core/optim/factored_adam.py`);
    `first_moment` and `update_clip` (limit of the update's root mean square, 0 for none) are for it only.

    `lr` is the rate after `warmup` linear steps, `final_lr` that of the last step. `decay` is the shape between them,
    which begins at `decay_start` (if that is after the warm-up). `beta1` and `beta2` are the decays of the moments,
    `weight_decay` is multiplied by the rate, and gradients are cut to the norm `clip_norm` (0: never).
    """

    kind: str = "adamw"
    first_moment: str = "fp32"
    update_clip: Amount = 0.0
    lr: PositiveFloat = 1e-4
    final_lr: PositiveFloat = 5e-5
    warmup: Count = 0
    decay: str = "cosine"
    decay_start: Count = 0
    beta1: ShareBelowOne = 0.9
    beta2: ShareBelowOne = 0.99
    weight_decay: Amount = 1e-4
    clip_norm: Amount = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("kind", self.kind, ("adamw", "factored"))
        one_of("first_moment", self.first_moment, ("fp32", "bf16", "int8"))
        factored = self.kind == "factored"
        require(factored or self.first_moment == "fp32", "first_moment", self.first_moment, "needs kind=factored")
        require(factored or self.update_clip == 0, "update_clip", self.update_clip, "needs kind=factored")
        one_of("decay", self.decay, ("cosine", "exponential", "constant"))


@dataclass
class TrainConfig(Ranged):
    """Settings of every training component.

    An update is skipped when its loss or gradient is not finite. `on_nonfinite: skip` goes on with the next batch,
    `halt` ends the training at the next log line, naming step, terms and samples.
    `accumulate` splits each worker's share of a batch into that many microbatches: less memory, the same gradients.
    `compile` runs networks, those of the tokenizer's losses too, through torch.compile; like the device it may change
    the last bits, so it is part of the numeric class that checkpoints and manifests record.
    Every `evaluate_every` steps (0: only at the end) a copy of the weights is evaluated on the first `evaluate_limit`
    held-out samples (0: all) while training goes on.
    The newest `keep` checkpoints are kept, and the `best` one ('max psnr_db': by a metric of the evaluations). One that
    cannot be written is reported and left out (`checkpoint_errors: warn`) or ends the training (`fail`).

    `steps` is the number of updates, each on `batch` samples of all workers together. `seed` determines weights, order
    and augmentation. `precision` of matrix products is `highest` (strict fp32; stored as fp32, which means the same),
    `high` (or tf32: TF32 on CUDA, three bf16 products on TPU, fp32 on CPU), `bf16`, or `auto`: bf16 where the device
    has it, else highest. Codes are always made in `highest`. `ema` is the decay of an average of the weights, which is
    what is kept (0: none). With `image_decoding: scaled` JPEGs of training views are decoded at 1/2, 1/4 or 1/8 of
    their size where the crop keeps the view's pixels: faster for large photographs, with other fine detail (`full`:
    never). Figures are logged every `log_every` steps, checkpoints written every `checkpoint_every`.
    """

    steps: PositiveInt = 1000
    batch: PositiveInt = 64
    accumulate: PositiveInt = 1
    seed: Seed = 0
    precision: str = "auto"
    ema: ShareBelowOne = 0.0
    optim: OptimConfig = field(default_factory=OptimConfig)
    image_decoding: str = new_setting("full")
    compile: str = execution("off")
    log_every: PositiveInt = execution(20)
    checkpoint_every: PositiveInt = execution(200)
    on_nonfinite: str = execution("skip")
    evaluate_every: Count = execution(0)
    evaluate_limit: Count = execution(0)
    keep: PositiveInt = execution(2)
    best: str = execution("")
    checkpoint_errors: str = execution("warn")

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("precision", self.precision, ("auto", "highest", "high", "bf16", "fp32", "tf32"))
        self.precision = STORED_PRECISION.get(self.precision, self.precision)
        one_of("image_decoding", self.image_decoding, ("full", "scaled"))
        one_of("on_nonfinite", self.on_nonfinite, ("skip", "halt"))
        one_of("checkpoint_errors", self.checkpoint_errors, ("warn", "fail"))
        words = self.best.split()
        rule = "must be '' or '<max|min> <figure>', such as 'max psnr_db'"
        require(not words or (len(words) == 2 and words[0] in ("max", "min")), "best", self.best, rule)
        rule = f"does not divide batch={self.batch}"
        require(self.batch % self.accumulate == 0, "accumulate", self.accumulate, rule)
        one_of("compile", self.compile, ("off", "on"))
