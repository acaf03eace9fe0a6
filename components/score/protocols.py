"""Protocol records of the figures of `score`; `size` is the side in pixels of the images that are compared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from components.contract.api import Artifact
from components.score.shards import ROUNDING_DB
from components.statistics.networks import FigureNames
from vim_core.metrics.protocol import Protocol


@dataclass(frozen=True)
class Generated:
    """Common to the records of generated images: how they were drawn, and the convention of their figures."""

    sampling: dict[str, Any]
    protocol: str = ""


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
        figure=FigureNames.of_network(network).reconstructed,
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


def code_records(codes: Artifact, count: int, batch: int) -> dict[str, Any]:
    """Codebook usage and perplexity of the unaugmented codes of the test images."""
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
    return {
        "codebook_usage": Protocol("codebook_usage", usage, count=used, notes=notes, **shared).record(),
        "perplexity": Protocol("perplexity", perplexity, count=count, unit="codes", **shared).record(),
    }


def accuracy_record(generated: Generated, classifier: Artifact, count: int, size: int) -> dict[str, Any]:
    """Conditional accuracy: share of samples that the classifier assigns to the class they were drawn for."""
    return Protocol(
        figure="conditional_accuracy",
        compares="the classifier's most likely class with the class the sample was drawn for",
        split="samples",
        count=count,
        resize=_crop(size),
        network="classifier",
        network_digest=classifier.digest,
        sampling=generated.sampling,
        notes="the classifier was trained on the train split and took no part in sampling",
    ).record()


def distance_record(generated: Generated, statistics: Artifact, counts: tuple[int, int], size: int) -> dict[str, Any]:
    """Fréchet distance of samples to the real images of the statistics' split; `counts` are samples and real images."""
    return _sample_record(
        generated,
        statistics,
        size,
        figure=FigureNames.of_network(statistics.properties["network"]).distance,
        compares="samples with real images",
        count=counts[0],
        reference=f"{statistics.properties['split']} images",
        reference_count=counts[1],
        notes=_distance_notes(statistics),
    )


def reference_record(generated: Generated, statistics: Artifact, count: int, size: int) -> dict[str, Any]:
    """Fréchet distance of samples to statistics from a file."""
    reference = statistics.properties["reference"]
    return _sample_record(
        generated,
        statistics,
        size,
        figure=f"{FigureNames.of_network(statistics.properties['network']).distance}_reference",
        compares="samples with published statistics",
        count=count,
        reference=f"{reference['uri']}: {reference['statistics']}",
        reference_count=int(reference["count"]),
        reference_digest=str(reference["sha256"]),
        notes=_distance_notes(statistics),
    )


def halves_record(statistics: Artifact, counts: tuple[int, int], size: int) -> dict[str, Any]:
    """Fréchet distance of one half of the real images to the other."""
    return _real_record(
        statistics,
        counts,
        size,
        "one half of the real images with the other, divided by a hash of their keys",
        "the other half of the",
        "the floor; the smaller the sets, the further apart they lie, so mind the counts when comparing",
    )


def real_vs_real_record(statistics: Artifact, counts: tuple[int, int], size: int, complete: bool) -> dict[str, Any]:
    """Fréchet distance of real images to others; `complete`: in sets as large as the sides of the samples' figure."""
    equal = "the floor of the samples' figure: as many images on either side"
    fewer = "above the floor of the samples' figure: there are fewer real images, in its ratio of counts"
    compares = "real images with other real images, both drawn by a hash of their keys"
    return _real_record(statistics, counts, size, compares, "others of the", equal if complete else fewer)


def inception_score_record(
    generated: Generated, statistics: Artifact, count: int, size: int, splits: str
) -> dict[str, Any]:
    """Inception Score of samples, or the same figure of another network; `splits` describes its splits."""
    network = statistics.properties["network"]
    bias = "; logits without the last bias, as torch-fidelity and guided-diffusion take them"
    return _sample_record(
        generated,
        statistics,
        size,
        figure=FigureNames.of_network(network).score,
        compares="exp of the mean divergence of an image's class probabilities from those of its split",
        count=count,
        reference_digest="",
        notes=f"mean (and standard deviation) over {splits}{bias if network['kind'] == 'inception' else ''}",
    )


def feature_records(
    generated: Generated, statistics: Artifact, counts: tuple[int, int], size: int, kid: str
) -> dict[str, Any]:
    """Figures of the features of a bounded number of images, by name; `kid` describes the subsets of KID."""
    from vim_core.metrics.precision_recall import DENSITY_NEIGHBOURS, NEIGHBOURS

    names = FigureNames.of_network(statistics.properties["network"])
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
    return {
        figure: _sample_record(
            generated,
            statistics,
            size,
            figure=figure,
            compares=compares,
            count=counts[0],
            reference=f"{statistics.properties['split']} images",
            reference_count=counts[1],
            notes=notes,
        )
        for figure, (compares, notes) in figures.items()
    }


def reference_file_record(record: dict[str, Any], statistics: Artifact, count: int) -> dict[str, Any]:
    """The same record for a comparison with the images of the statistics' reference file."""
    reference = statistics.properties["reference"]
    return record | {
        "figure": f"{record['figure']}_reference",
        "reference": f"images of {reference['uri']}",
        "reference_digest": str(reference["sha256"]),
        "reference_count": count,
    }


def _sample_record(generated: Generated, statistics: Artifact, size: int, **fields: Any) -> dict[str, Any]:
    """A figure of generated images under the statistics' network; `fields` are those that differ between figures."""
    shared = {"split": "samples", "sampling": generated.sampling, "protocol": generated.protocol}
    return Protocol(**(shared | _evaluator(statistics, size) | fields)).record()


def _real_record(
    statistics: Artifact, counts: tuple[int, int], size: int, compares: str, reference: str, notes: str
) -> dict[str, Any]:
    splits = " and ".join(str(name) for name in statistics.properties["halves"])
    return Protocol(
        figure=f"{FigureNames.of_network(statistics.properties['network']).distance}_real_vs_real",
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


def _distance_notes(statistics: Artifact) -> str:
    network = statistics.properties["network"]
    if network.get("published"):
        return "FID: Fréchet distance of the pool_3 features of the 2015 Inception network with its published weights"
    return (
        f"Fréchet distance of the {network['kind']}'s features; not FID, which is defined on the 2015 Inception network"
    )


def _crop(size: int) -> str:
    return f"short side to {size} pixels (bicubic, antialiased), centre crop; exact sizes are left as they are"
