"""Settings of the components that evaluate and report: classify, statistics, score, probe, report."""

from __future__ import annotations

from dataclasses import dataclass, field

from vim_core.config.fields import (
    Amount,
    Count,
    InnerShare,
    PositiveFloat,
    PositiveInt,
    Ranged,
    ShareBelowOne,
    execution,
    one_of,
    require,
)
from vim_core.config.training import AugmentConfig, OptimConfig, TrainConfig


@dataclass
class ClassifyConfig(TrainConfig):
    """A small convolutional classifier of the ingested images, for metrics and feature statistics.

    `image_size` is the side that images are brought to, `width` the channels of the first of four stages, `features`
    the length of the vector before the classes, and `dropout` its dropout in training.
    """

    image_size: PositiveInt = 32
    width: PositiveInt = 32
    features: PositiveInt = 64
    dropout: ShareBelowOne = 0.1
    augment: AugmentConfig = field(default_factory=AugmentConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        rule = "must be 1, because batch norm looks at the whole batch"
        require(self.accumulate == 1, "classify.accumulate", self.accumulate, rule)


@dataclass
class StatisticsConfig(Ranged):
    """Reference statistics of real images under one feature network.

    Samples are compared with the images of `split`. The images of the splits in `halves` are divided into two halves,
    whose distance is that of real images to real ones; more images give a smaller distance.

    `network` is the pipeline's own 'classifier', 'inception' (of FID) or 'torchvision:<name>'; the latter two need
    `weights` (path or URI of a .pth or .safetensors file), whose hash begins with `weights_sha256` (empty: that of the
    published network of FID), after bringing images to squares of `image_size` (0: as they are). `score_splits` (0:
    none) is the number of splits that an Inception Score is averaged over, `features` (0: none) the maximal number
    of images for precision and recall. `reference` is a file of published statistics to compare samples with, too;
    `reference_sha256` saves checking whether it changed. `export` writes mu and sigma of the split. `spatial` also
    keeps moments of the network's spatial features, for sFID (only of inception).

    `batch` images go through the network at once.
    """

    network: str = "classifier"
    # Addresses; the content enters the fingerprint by hash, that of a reference without one by size and date.
    weights: str = execution("")
    weights_sha256: str = ""
    image_size: Count = 0
    split: str = "test"
    halves: list[str] = field(default_factory=lambda: ["test"])
    score_splits: Count = 0
    features: Count = 0
    reference: str = execution("")
    reference_sha256: str = ""
    export: bool = False
    spatial: bool = False
    batch: PositiveInt = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_network()
        require(bool(self.halves), "statistics.halves", self.halves, "must name a split")
        rule = "must be 0 (none) or above 5, the neighbours that density and coverage look at"
        require(self.features == 0 or self.features > 5, "statistics.features", self.features, rule)
        rule = "sFID's spatial features are of statistics.network=inception"
        require(not self.spatial or self.network == "inception", "statistics.spatial", self.spatial, rule)
        digest, rule = self.reference_sha256, "has no use without statistics.reference"
        require(bool(self.reference) or not digest, "statistics.reference_sha256", digest, rule)
        for split in (self.split, *self.halves):
            one_of("statistics.split" if split == self.split else "statistics.halves", split, ("train", "test"))

    def _check_network(self) -> None:
        named = self.network.startswith("torchvision:")
        rule = "must be one of classifier, inception, torchvision:<name>"
        require(named or self.network in ("classifier", "inception"), "statistics.network", self.network, rule)
        for name, value in (("weights_sha256", self.weights_sha256), ("reference_sha256", self.reference_sha256)):
            hexadecimal = len(value) in range(8, 65) and set(value) <= set("0123456789abcdef")
            rule = "must be the first 8 to 64 hex digits of the file's sha256"
            require(not value or hexadecimal, f"statistics.{name}", value, rule)
        if self.network == "classifier":
            rule = "is read for statistics.network=inception or torchvision:<name> only"
            for name in ("weights", "weights_sha256", "image_size"):
                require(not getattr(self, name), f"statistics.{name}", getattr(self, name), rule)
        rule = "must be given for a network of torchvision: `sha256sum` prints it"
        require(not named or bool(self.weights_sha256), "statistics.weights_sha256", self.weights_sha256, rule)


@dataclass
class ScoreConfig(Ranged):
    """Metrics of samples and reconstructions against real images.

    `protocol` is '' for this project's rules, or 'torch-fidelity' or 'guided-diffusion' for theirs (splits of the
    Inception Score, KID, all images for precision and recall); every metric's record names it. `samples_from` is a
    folder of pictures or an .npz with `arr_0` to score instead of the preset's samples.

    Intervals of Fréchet distances are jackknife estimates over `groups` groups of images (0: none). `floor` measures
    the distance of real images to real ones in sets as large as the samples; without it two halves are compared.
    `reconstructed` compares features of reconstructions with those of their originals (rFID). `lpips` needs
    `lpips_weights`, the VGG16 file whose sha256 begins with `lpips_sha256` (empty: torchvision's). `neighbours` is the
    number of samples whose nearest training images are searched (0: none). `batch_file` also writes all samples into
    one npz file for guided-diffusion's evaluator.

    `usage_batch` is the number of images over which the usage of codes is counted. `batch` images go through a network
    at once.
    """

    usage_batch: PositiveInt = 256
    protocol: str = ""
    samples_from: str = execution("")  # its content enters the fingerprint by sizes and dates
    groups: Count = 20
    floor: bool = True
    reconstructed: bool = True
    lpips: bool = False
    lpips_weights: str = execution("")
    lpips_sha256: str = ""
    neighbours: Count = 0
    batch_file: bool = False
    batch: PositiveInt = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        rule = "must be empty (this project's rules), torch-fidelity or guided-diffusion"
        require(self.protocol in ("", "torch-fidelity", "guided-diffusion"), "score.protocol", self.protocol, rule)
        require(self.groups == 0 or self.groups >= 2, "score.groups", self.groups, "must be 0 (no intervals) or 2 up")
        rule = "needs score.lpips_weights (a path or URI of torchvision's vgg16-397923af.pth)"
        require(not self.lpips or bool(self.lpips_weights), "score.lpips", self.lpips, rule)


@dataclass
class ProbeConfig(TrainConfig):
    """Linear probe on mean-pooled features of every block (paper section 4.2).

    The paper states neither optimizer nor augmentation. Every pair of `learning_rates` and `weight_decays` is one
    softmax layer on standardised features, trained by SGD with `momentum` and a cosine schedule to zero, as in iGPT;
    all are trained at once on the views of the code table. `decorrelate` divides updates by the features' covariance
    plus this value on its diagonal: one epoch then replaces dozens of plain SGD (0). `ridge` lists penalties, each
    times the number of rows, of ridge regressions as a cross-check (empty: none). The share `validation_share` of the
    training images selects among the layers. `pixels` is the side of the images of a raw-pixel baseline (0: none).

    `steps` and `batch` are those of the heads' training.
    """

    steps: PositiveInt = 400
    batch: PositiveInt = 512
    learning_rates: list[PositiveFloat] = field(default_factory=lambda: [0.03, 0.1, 0.3, 1.0])
    weight_decays: list[Amount] = field(default_factory=lambda: [1e-6, 1e-5, 1e-4])
    momentum: ShareBelowOne = 0.9
    decorrelate: Amount = 1e-3
    ridge: list[PositiveFloat] = field(default_factory=lambda: [1e-4, 1e-3, 1e-2, 1e-1, 1.0])
    validation_share: InnerShare = 0.15
    pixels: Count = 32

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("learning_rates", "weight_decays"):
            values = getattr(self, name)
            require(bool(values), f"probe.{name}", values, "must not be empty")
        rule = "has no use: heads learn by SGD; set probe.learning_rates, probe.weight_decays and probe.momentum"
        require(self.optim == OptimConfig(), "probe.optim", self.optim, rule)
        rule = "must be full: the probe sees plain images"
        require(self.image_decoding == "full", "probe.image_decoding", self.image_decoding, rule)
        require(self.ema == 0, "probe.ema", self.ema, "must be 0: heads are not averaged")
        require(self.evaluate_every == 0, "probe.evaluate_every", self.evaluate_every, "must be 0: judged at the end")


@dataclass
class ReportConfig(Ranged):
    """One HTML page of the run's results, and how many images it shows.

    `title` is the page's. Of the first `max_classes` classes `samples_per_class` samples are shown, and
    `reconstructions` held-out images beside theirs.
    """

    title: str = "VIM"
    samples_per_class: Count = 8
    max_classes: Count = 20
    reconstructions: Count = 16
