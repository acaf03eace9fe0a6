"""Figures of a run of `score`, each with its confidence interval and protocol record.

`size` is the side in pixels of the images that are compared.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from components.contract.api import Artifact
from components.score.shards import ROUNDING_DB
from components.statistics.networks import FigureNames
from vim_core.metrics.protocol import Protocol

Interval = tuple[float, float] | None

BOOTSTRAP = "95 %: percentiles of 1,000 means of as many images drawn anew"
WILSON = "95 %: Wilson's interval of a share of images"
JACKKNIFE = "95 %: jackknife over {groups} groups of images left out in turn, Student's distribution; {fixed}"
PARTS = "95 %: Student's distribution over {parts}"


@dataclass
class Figures:
    """Figures and the protocol of each, by name; `<name>_low` and `<name>_high` have the protocol of `<name>`."""

    metrics: dict[str, float] = field(default_factory=dict)
    protocols: dict[str, Any] = field(default_factory=dict)

    def put(self, value: float, record: Mapping[str, Any], interval: Interval = None, method: str = "") -> None:
        """Add the figure of a record and its interval; `method` describes the interval in the record."""
        name = record["figure"]
        self.metrics[name] = value
        self.protocols[name] = dict(record)
        if interval is not None:
            self.metrics[f"{name}_low"], self.metrics[f"{name}_high"] = interval
            self.protocols[name]["interval"] = method


def reconstruction_records(
    images: Artifact, reconstructions: Artifact, count: int, size: int, backbone: str = ""
) -> dict[str, Any]:
    """PSNR, SSIM and LPIPS: reconstructions against the originals at the tokenizer's size."""
    shared: dict[str, Any] = {
        "compares": "each reconstruction, rounded to 8 bits, with its original",
        "split": "test",
        "count": count,
        "resize": _crop(size),
        "network": "tokenizer",
        "network_digest": str(reconstructions.properties["tokenizer"]),
        "reference": "original images",
        "reference_digest": images.digest,
    }
    psnr = f"mean over images of the PSNR of one image; an image equal to its original counts as {ROUNDING_DB} dB"
    ssim = "Wang et al. 2004: Gaussian window 11 x 11, sigma 1.5, population covariance, mean over channels and images"
    lpips = (
        f"Zhang et al. 2018, VGG16 with lpips' heads v0.1, mean over images; backbone sha256 {backbone or '397923af'}"
    )
    return {
        "lpips": Protocol(figure="lpips", notes=lpips, **shared).record(),
        "psnr_db": Protocol(figure="psnr_db", unit="dB", notes=psnr, **shared).record(),
        "ssim": Protocol(figure="ssim", notes=ssim, **shared).record(),
    }


def reconstruction_distance_record(network: dict[str, Any], images: Artifact, count: int, size: int) -> dict[str, Any]:
    """Fréchet distance of reconstructions to their originals; `network` is the evaluator's record."""
    crop = _crop(size)
    return Protocol(
        figure=FigureNames(network).reconstructed,
        compares="reconstructions, rounded to 8 bits, with their originals, as sets",
        split="test",
        count=count,
        resize=f"{crop}; then {network['preprocessing']}" if network.get("preprocessing") else crop,
        network=str(network["kind"]),
        network_digest=str(network["digest"]),
        reference="the original images",
        reference_count=count,
        reference_digest=images.digest,
    ).record()


def code_records(codes: Artifact, count: int, training: int, batch: int) -> dict[str, Any]:
    """Codebook usage and perplexity of the unaugmented codes of `count` test images.

    `training` images fill the only batch of usage where test images are fewer than it.
    """
    shared: dict[str, Any] = {
        "split": "test",
        "network": "tokenizer",
        "network_digest": str(codes.properties["tokenizer"]),
        "reference": "code table",
        "reference_digest": codes.digest,
    }
    usage = (
        "distinct codes in a batch of images over the codebook's size, mean over full batches (Yu et al. 2022, Table 4)"
    )
    perplexity = "two to the entropy of the code frequencies over all images"
    used = count // batch * batch
    notes = f"{used // batch} batches of {batch} images; {count - used} images beyond the last full batch are left out"
    if count < batch:
        used = count + training
        notes = f"one batch of all {count} held-out images" + (f" and {training} training images" if training else "")
        notes += f", fewer than score.usage_batch={batch}: usage counts lower" if used < batch else ""
    split = {"split": "test and train"} if training else {}
    return {
        "codebook_usage": Protocol("codebook_usage", usage, count=used, notes=notes, **(shared | split)).record(),
        "perplexity": Protocol("perplexity", perplexity, count=count, unit="codes", **shared).record(),
    }


def accuracy_record(sampling: dict[str, Any], classifier: Artifact, count: int, size: int) -> dict[str, Any]:
    """Conditional accuracy: share of samples that the classifier assigns to the class they were drawn for."""
    return Protocol(
        figure="conditional_accuracy",
        compares="the classifier's most likely class with the class the sample was drawn for",
        split="samples",
        count=count,
        resize=_crop(size),
        network="classifier",
        network_digest=classifier.digest,
        sampling=sampling,
        notes="the classifier was trained on the train split and took no part in sampling",
    ).record()


@dataclass(frozen=True)
class SampleRecords:
    """Records of a set of generated images under the network of the statistics that it is compared with.

    Attributes:
        statistics: the artifact.
        size: pixels a side of the evaluator's input.
        sampling: how the images were drawn.
        protocol: convention of the figures.
    """

    statistics: Artifact
    size: int
    sampling: dict[str, Any]
    protocol: str

    @property
    def names(self) -> FigureNames:
        """Names of the network's figures."""
        return FigureNames(self.statistics.properties["network"])

    def distance(self, count: int, real: int | None) -> dict[str, Any]:
        """Fréchet distance of `count` samples to `real` images of the statistics' split (None: to those of a file)."""
        network = self.statistics.properties["network"]
        rule = "not FID, which is defined on the 2015 Inception network"
        notes = f"Fréchet distance of the {network['kind']}'s features; {rule}"
        if network.get("published"):
            notes = (
                "FID: Fréchet distance of the pool_3 features of the 2015 Inception network with its published weights"
            )
        if real is not None:
            fields = {"reference": f"{self.statistics.properties['split']} images", "reference_count": real}
            return self._record(self.names.distance, "samples with real images", count, notes=notes, **fields)
        file = self.statistics.properties["reference"]
        fields = {"reference": f"{file['uri']}: {file['statistics']}", "reference_count": int(file["count"])}
        fields |= {"reference_digest": str(file["sha256"]), "notes": notes}
        return self._record(f"{self.names.distance}_reference", "samples with published statistics", count, **fields)

    def inception_score(self, count: int, splits: str) -> dict[str, Any]:
        """Inception Score, or the same figure of another network; `splits` describes its splits."""
        bias = "; logits without the last bias, as torch-fidelity and guided-diffusion take them"
        inception = self.statistics.properties["network"]["kind"] == "inception"
        notes = f"mean (and standard deviation) over {splits}{bias if inception else ''}"
        compares = "exp of the mean divergence of an image's class probabilities from those of its split"
        return self._record(self.names.score, compares, count, reference_digest="", notes=notes)

    def features(self, count: int, real: int, kid: str, to_file: bool) -> dict[str, Any]:
        """Figures of the features of a bounded number of images, by name; `kid` describes the subsets of KID.

        With `to_file` the `real` images are those of the statistics' reference file.
        """
        from vim_core.metrics.neighbours import DENSITY_NEIGHBOURS, NEIGHBOURS

        names = self.names
        drawn = "the images with the lowest sha256('features', key) of either side"
        manifold = f"Kynkäänniemi et al. 2019, k = {NEIGHBOURS}, float64 distances; {drawn}"
        balls = (
            f"Naeem et al. 2020, k = {DENSITY_NEIGHBOURS}, float64 distances, vectors on a ball's surface are outside; "
            f"{drawn}"
        )
        figures = {
            names.precision: ("share of samples within reach of real images", manifold),
            names.recall: ("share of real images within reach of samples", manifold),
            names.density: ("how many real images' balls a sample lies in, over k", balls),
            names.coverage: ("share of real images whose ball holds a sample", balls),
            names.kernel: ("samples with real images by the squared maximum mean discrepancy", f"{kid}; {drawn}"),
        }
        shared: dict[str, Any] = {"reference": f"{self.statistics.properties['split']} images", "reference_count": real}
        if to_file:
            file = self.statistics.properties["reference"]
            shared |= {"reference": f"images of {file['uri']}", "reference_digest": str(file["sha256"])}
        return {
            figure: self._record(f"{figure}_reference" if to_file else figure, compares, count, notes=notes, **shared)
            for figure, (compares, notes) in figures.items()
        }

    def _record(self, figure: str, compares: str, count: int, **fields: Any) -> dict[str, Any]:
        shared = {"split": "samples", "sampling": self.sampling, "protocol": self.protocol}
        shared |= _evaluator(self.statistics, self.size)
        return Protocol(figure=figure, compares=compares, count=count, **(shared | fields)).record()


def neighbours_record(
    network: dict[str, Any], images: Artifact, counts: tuple[int, int], sampling: dict[str, Any]
) -> dict[str, Any]:
    """Nearness of samples to training images; `counts` are samples and held-out images, `network` the evaluator."""
    return Protocol(
        figure="neighbours_near",
        compares="the distance of a sample to the nearest training image with that of held-out images",
        split="samples",
        count=counts[0],
        resize=str(network.get("preprocessing", "")),
        network=str(network["kind"]),
        network_digest=str(network["digest"]),
        reference=f"train images; {counts[1]} test images for the scale",
        reference_count=int(images.properties["splits"]["train"]),
        reference_digest=images.digest,
        sampling=sampling,
        notes=f"exact search by Euclidean distance of the features behind {FigureNames(network).distance}; "
        "near is below the first percentile of the held-out images' distances; ratio is of the medians",
    ).record()


def real_vs_real_record(
    statistics: Artifact, counts: tuple[int, int], size: int, compares: str, reference: str, notes: str
) -> dict[str, Any]:
    """Fréchet distance of real images to others of the same splits."""
    splits = " and ".join(str(name) for name in statistics.properties["halves"])
    return Protocol(
        figure=f"{FigureNames(statistics.properties['network']).distance}_real_vs_real",
        compares=compares,
        split=splits,
        count=counts[0],
        reference=f"{reference} {splits} images",
        reference_count=counts[1],
        notes=notes,
        **_evaluator(statistics, size),
    ).record()


def _evaluator(statistics: Artifact, size: int) -> dict[str, Any]:
    network = statistics.properties["network"]
    return {
        "resize": str(network.get("preprocessing", "")) or _crop(size),
        "network": str(network["kind"]),
        "network_digest": str(network["digest"]),
        "reference_digest": statistics.digest,
    }


def _crop(size: int) -> str:
    return f"short side to {size} pixels (bicubic, antialiased), centre crop; exact sizes are left as they are"
