"""Settings of the components that judge and report."""

from __future__ import annotations

from dataclasses import dataclass, field

from vim_core.config.fields import require
from vim_core.config.training import AugmentConfig, TrainConfig


@dataclass
class ClassifyConfig(TrainConfig):
    """A small convolutional classifier of the ingested images."""

    image_size: int = 32
    width: int = 32
    features: int = 64
    dropout: float = 0.1
    augment: AugmentConfig = field(default_factory=AugmentConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        rule = "must be 1, because batch norm looks at the whole batch"
        require(self.accumulate == 1, "classify.accumulate", self.accumulate, rule)


@dataclass
class ScoreConfig:
    """Figures of samples and reconstructions against real images.

    With `batch_file` all samples also become one npz file, as guided-diffusion's evaluator reads them.
    """

    usage_batch: int = 256
    batch_file: bool = False
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
