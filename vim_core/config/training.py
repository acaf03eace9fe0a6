"""Settings that several components share: augmentation, transformer stacks, optimizers, training."""

from __future__ import annotations

from dataclasses import dataclass, field

from vim_core.config.fields import execution, one_of, require


@dataclass
class AugmentConfig:
    """Random view of an image; the defaults do not change it.

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
    """Adam with decoupled weight decay, warm-up and decay; the schedule is a pure function of the step.

    `kind: factored` keeps the second moment of matrices as row and column means (`vim_core/optim/factored_adam.py`);
    `first_moment` and `update_clip` (limit of the update's root mean square, 0 for none) are for it only.
    """

    kind: str = "adamw"
    first_moment: str = "fp32"
    update_clip: float = 0.0
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
        one_of("kind", self.kind, ("adamw", "factored"))
        one_of("first_moment", self.first_moment, ("fp32", "bf16", "int8"))
        factored = self.kind == "factored"
        require(factored or self.first_moment == "fp32", "first_moment", self.first_moment, "needs kind=factored")
        require(factored or self.update_clip == 0, "update_clip", self.update_clip, "needs kind=factored")
        require(self.update_clip >= 0, "update_clip", self.update_clip, "must be 0 (off) or positive")
        require(0 <= self.beta1 < 1, "beta1", self.beta1, "must lie in [0, 1)")
        require(0 <= self.beta2 < 1, "beta2", self.beta2, "must lie in [0, 1)")
        one_of("decay", self.decay, ("cosine", "exponential", "constant"))
        require(self.lr > 0, "lr", self.lr, "must be positive")
        require(self.final_lr > 0, "final_lr", self.final_lr, "must be positive")


@dataclass
class TrainConfig:
    """Settings of every training component.

    An update is skipped when its loss or gradient is not finite. `on_nonfinite: skip` goes on with the next batch,
    `halt` ends the training at the next log line, naming step, terms and samples.
    `accumulate` splits each worker's share of a batch into that many microbatches: less memory, the same gradients.
    `compile` runs networks through torch.compile; like the device it may change the last bits, so it is part of the
    numeric class that checkpoints and manifests record.
    Every `evaluate_every` steps (0: only at the end) a copy of the weights is evaluated on the first `evaluate_limit`
    held-out samples (0: all) while training goes on.
    The newest `keep` checkpoints are kept, and the `best` one ('max psnr_db': by a metric of the evaluations). One that
    cannot be written is reported and left out (`checkpoint_errors: warn`) or ends the training (`fail`).
    """

    steps: int = 1000
    batch: int = 64
    accumulate: int = 1
    seed: int = 0
    precision: str = "auto"
    ema: float = 0.0
    optim: OptimConfig = field(default_factory=OptimConfig)
    compile: str = execution("off")
    log_every: int = execution(20)
    checkpoint_every: int = execution(200)
    on_nonfinite: str = execution("skip")
    evaluate_every: int = execution(0)
    evaluate_limit: int = execution(0)
    keep: int = execution(2)
    best: str = execution("")
    checkpoint_errors: str = execution("warn")

    def __post_init__(self) -> None:
        require(self.evaluate_every >= 0, "evaluate_every", self.evaluate_every, "must be 0 (at the end) or positive")
        require(self.evaluate_limit >= 0, "evaluate_limit", self.evaluate_limit, "must be 0 (all) or positive")
        one_of("precision", self.precision, ("auto", "fp32", "bf16"))
        one_of("on_nonfinite", self.on_nonfinite, ("skip", "halt"))
        one_of("checkpoint_errors", self.checkpoint_errors, ("warn", "fail"))
        require(self.keep > 0, "keep", self.keep, "must be positive")
        words = self.best.split()
        rule = "must be '' or '<max|min> <figure>', such as 'max psnr_db'"
        require(not words or (len(words) == 2 and words[0] in ("max", "min")), "best", self.best, rule)
        require(self.steps > 0, "steps", self.steps, "must be positive")
        require(self.batch > 0, "batch", self.batch, "must be positive")
        require(self.accumulate > 0, "accumulate", self.accumulate, "must be positive")
        rule = f"does not divide batch={self.batch}"
        require(self.batch % self.accumulate == 0, "accumulate", self.accumulate, rule)
        one_of("compile", self.compile, ("off", "on"))
        require(0 <= self.ema < 1, "ema", self.ema, "must lie in [0, 1)")
