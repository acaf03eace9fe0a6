"""Settings of the components that judge and report."""

from __future__ import annotations

from dataclasses import dataclass, field

from vim_core.config.fields import execution, require
from vim_core.config.training import AugmentConfig, OptimConfig, TrainConfig


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

    `protocol` '' is this project's rules; 'torch-fidelity' and 'guided-diffusion' are theirs (splits of the Inception
    Score, KID, all images for precision and recall) and the record beside each figure says so. `samples_from` names
    images to score in the place of the preset's own samples: a folder of pictures or an .npz with `arr_0`.

    Intervals of Fréchet distances come from leaving out one of `groups` groups of images each (0: none). `floor`
    measures what real images score against real ones in sets as large as those of the samples' figure; without it, two
    halves are compared. `reconstructed` compares the features of reconstructions with those of their originals (rFID).
    `lpips` needs `lpips_weights`, the VGG16 file with a hash that begins with `lpips_sha256` (empty: torchvision's).
    `neighbours` (0: none) is of how many samples the nearest training images are sought. With `batch_file` all samples
    also become one npz file, as guided-diffusion's evaluator reads them.
    """

    usage_batch: int = 256
    protocol: str = ""
    samples_from: str = execution("")  # its content enters the fingerprint by sizes and dates
    groups: int = 20
    floor: bool = True
    reconstructed: bool = True
    lpips: bool = False
    lpips_weights: str = execution("")
    lpips_sha256: str = ""
    neighbours: int = 0
    batch_file: bool = False
    batch: int = 64

    def __post_init__(self) -> None:
        require(
            self.protocol in ("", "torch-fidelity", "guided-diffusion"),
            "score.protocol",
            self.protocol,
            "must be empty (this project's rules), torch-fidelity or guided-diffusion",
        )
        require(self.groups == 0 or self.groups >= 2, "score.groups", self.groups, "must be 0 (no intervals) or 2 up")
        require(self.neighbours >= 0, "score.neighbours", self.neighbours, "must be 0 (none) or a number of samples")
        rule = "needs score.lpips_weights (a path or URI of torchvision's vgg16-397923af.pth)"
        require(not self.lpips or bool(self.lpips_weights), "score.lpips", self.lpips, rule)


@dataclass
class ProbeConfig(TrainConfig):
    """Linear probe on mean-pooled features of every block (paper section 4.2).

    The paper states neither optimizer nor augmentation. Every pair of `learning_rates` and `weight_decays` is a softmax
    layer of its own, on standardised features, by SGD with `momentum` and a cosine to zero, as in iGPT; all learn at
    once from the views of the code table. `decorrelate` divides updates by the features' covariance plus so much on its
    diagonal, as if the features were uncorrelated: one epoch then does what takes plain SGD (0) dozens. `ridge` are
    penalties, each times
    the number of rows, of the least-squares cross-check; none where the list is empty. The share `validation_share` of
    the training images chooses among them. `pixels` is the side of the images that the same layers are fitted on for
    comparison (0: no such baseline).
    """

    steps: int = 400
    batch: int = 512
    learning_rates: list[float] = field(default_factory=lambda: [0.03, 0.1, 0.3, 1.0])
    weight_decays: list[float] = field(default_factory=lambda: [1e-6, 1e-5, 1e-4])
    momentum: float = 0.9
    decorrelate: float = 1e-3
    ridge: list[float] = field(default_factory=lambda: [1e-4, 1e-3, 1e-2, 1e-1, 1.0])
    validation_share: float = 0.15
    pixels: int = 32

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("learning_rates", "weight_decays"):
            values = getattr(self, name)
            require(bool(values), f"probe.{name}", values, "must not be empty")
        require(min(self.learning_rates) > 0, "probe.learning_rates", self.learning_rates, "must be positive")
        require(min(self.weight_decays) >= 0, "probe.weight_decays", self.weight_decays, "must not be negative")
        require(0 <= self.momentum < 1, "probe.momentum", self.momentum, "must lie in [0, 1)")
        require(self.decorrelate >= 0, "probe.decorrelate", self.decorrelate, "must be 0 (plain SGD) or positive")
        require(min(self.ridge, default=1.0) > 0, "probe.ridge", self.ridge, "must be positive")
        share = self.validation_share
        require(0 < share < 1, "probe.validation_share", share, "must lie in (0, 1): heads are chosen on it")
        require(self.pixels >= 0, "probe.pixels", self.pixels, "must be 0 (no baseline) or the side of images")
        self._refuse_unused()

    def _refuse_unused(self) -> None:
        rule = "has no use: heads learn by SGD; set probe.learning_rates, probe.weight_decays and probe.momentum"
        require(self.optim == OptimConfig(), "probe.optim", self.optim, rule)
        require(self.ema == 0, "probe.ema", self.ema, "must be 0: heads are not averaged")
        require(self.evaluate_every == 0, "probe.evaluate_every", self.evaluate_every, "must be 0: judged at the end")


@dataclass
class ReportConfig:
    """One page of what the run made."""

    title: str = "VIM"
    samples_per_class: int = 8
    max_classes: int = 20
    reconstructions: int = 16
