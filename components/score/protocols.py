"""The protocol that stands beside each figure of `score`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from components.contract.api import Artifact
from components.score.names import Names
from components.score.shards import ROUNDING_DB
from vim_core.metrics.protocol import Protocol

if TYPE_CHECKING:
    from vim_core.metrics.inception_score import ScoreSums

NEIGHBOURS = 3
"""k of precision and recall; the same as `vim_core.metrics.precision_recall.NEIGHBOURS`, which needs numpy."""

BALLS = 5
"""k of density and coverage; the same as `vim_core.metrics.precision_recall.NEIGHBOURS`."""


@dataclass(frozen=True)
class Made:
    """What records say of generated images: how they were drawn, and whose rules their figures follow."""

    sampling: dict[str, Any]
    protocol: str = ""


def of_reconstructions(images: Artifact, made: Artifact, count: int, size: int, backbone: str = "") -> dict[str, Any]:
    """PSNR, SSIM and LPIPS: reconstructions against the originals at the tokenizer's size."""
    shared: dict[str, Any] = {
        "compares": "each reconstruction, rounded to 8 bits, with its original",
        "split": "test",
        "count": count,
        "resize": _square(size),
        "network": "tokenizer",
        "network_digest": str(made.properties["tokenizer"]),
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


def of_codes(codes: Artifact, count: int, batch: int) -> dict[str, Any]:
    """Codebook usage and perplexity of the plain view of the test images."""
    shared: dict[str, Any] = {
        "split": "test",
        "network": "tokenizer",
        "network_digest": str(codes.properties["tokenizer"]),
        "reference": "code table",
        "reference_digest": codes.digest,
    }
    share = (
        "distinct codes in a batch of images over the codebook's size, mean over full batches (Yu et al. 2022, Table 4)"
    )
    spread = "two to the entropy of the code frequencies over all images"
    used = count // batch * batch
    notes = f"{used // batch} batches of {batch} images; {count - used} images beyond the last full batch are left out"
    return {
        "codebook_usage": Protocol(figure="codebook_usage", compares=share, count=used, notes=notes, **shared).record(),
        "perplexity": Protocol(figure="perplexity", compares=spread, count=count, unit="codes", **shared).record(),
    }


def of_samples(made: Made, classifier: Artifact, count: int, size: int) -> dict[str, Any]:
    """Conditional accuracy: does the classifier see in a sample the class it was drawn for."""
    return Protocol(
        figure="conditional_accuracy",
        compares="the classifier's most likely class with the class the sample was drawn for",
        split="samples",
        count=count,
        resize=_square(size),
        network="classifier",
        network_digest=classifier.digest,
        sampling=made.sampling,
        notes="the classifier was trained on the train split and took no part in sampling",
    ).record()


def of_distance(made: Made, statistics: Artifact, counts: tuple[int, int], size: int) -> dict[str, Any]:
    """Fréchet distance of samples to the real images of the statistics' split; `counts` are samples and real."""
    split = str(statistics.properties["split"])
    return Protocol(
        figure=Names.of(statistics.properties["network"]).distance,
        compares="samples with real images",
        split="samples",
        count=counts[0],
        reference=f"{split} images",
        reference_count=counts[1],
        sampling=made.sampling,
        notes=_kind_of_distance(statistics),
        protocol=made.protocol,
        **_compared(statistics, size),
    ).record()


def of_halves(statistics: Artifact, counts: tuple[int, int], size: int) -> dict[str, Any]:
    """Fréchet distance of one half of the real images to the other."""
    divided = _divided(statistics)
    return Protocol(
        figure=f"{Names.of(statistics.properties['network']).distance}_real_vs_real",
        compares="one half of the real images with the other, divided by a hash of their keys",
        split=divided,
        count=counts[0],
        reference=f"the other half of the {divided} images",
        reference_count=counts[1],
        notes="the floor; the smaller the sets, the further apart they lie, so mind the counts when comparing",
        **_compared(statistics, size),
    ).record()


def of_floor(statistics: Artifact, counts: tuple[int, int], size: int, full: bool) -> dict[str, Any]:
    """Fréchet distance of real images to others, in sets as large as the two sides of the samples' figure."""
    divided = _divided(statistics)
    equal = "the floor of the samples' figure: as many images on either side"
    fewer = "above the floor of the samples' figure: there are fewer real images, in its ratio of counts"
    return Protocol(
        figure=f"{Names.of(statistics.properties['network']).distance}_real_vs_real",
        compares="real images with other real images, both drawn by a hash of their keys",
        split=divided,
        count=counts[0],
        reference=f"others of the {divided} images",
        reference_count=counts[1],
        notes=equal if full else fewer,
        **_compared(statistics, size),
    ).record()


def of_reference(made: Made, statistics: Artifact, count: int, size: int) -> dict[str, Any]:
    """Fréchet distance of samples to statistics from a file."""
    given = statistics.properties["reference"]
    shared = _compared(statistics, size) | {"reference_digest": str(given["sha256"])}
    return Protocol(
        figure=f"{Names.of(statistics.properties['network']).distance}_reference",
        compares="samples with published statistics",
        split="samples",
        count=count,
        reference=f"{given['uri']}: {given['statistics']}",
        reference_count=int(given["count"]),
        sampling=made.sampling,
        notes=_kind_of_distance(statistics),
        protocol=made.protocol,
        **shared,
    ).record()


def of_score(made: Made, statistics: Artifact, sums: ScoreSums, size: int, rule: str) -> dict[str, Any]:
    """Inception Score of samples, or its like under another network; `rule` says how they were split."""
    network = statistics.properties["network"]
    shared = _compared(statistics, size)
    del shared["reference_digest"]
    bias = "; logits without the last bias, as torch-fidelity and guided-diffusion take them"
    return Protocol(
        figure=Names.of(network).score,
        compares="exp of the mean divergence of an image's class probabilities from those of its split",
        split="samples",
        count=sums.count,
        sampling=made.sampling,
        notes=f"mean (and standard deviation) over {rule}{bias if network['kind'] == 'inception' else ''}",
        protocol=made.protocol,
        **shared,
    ).record()


def of_features(made: Made, statistics: Artifact, counts: tuple[int, int], size: int, kid: str) -> dict[str, Any]:
    """Figures taken from the features of a bounded number of images; `kid` says which subsets KID is a mean over."""
    names = Names.of(statistics.properties["network"])
    drawn = "the images with the lowest sha256('features', key) of either side"
    shared: dict[str, Any] = {
        "split": "samples",
        "count": counts[0],
        "reference": f"{statistics.properties['split']} images",
        "reference_count": counts[1],
        "sampling": made.sampling,
        "protocol": made.protocol,
        **_compared(statistics, size),
    }
    reach = f"Kynkäänniemi et al. 2019, k = {NEIGHBOURS}, float64 distances; {drawn}"
    balls = f"Naeem et al. 2020, k = {BALLS}, float64 distances, vectors on a ball's surface are outside; {drawn}"
    sides = {
        names.precision: ("share of samples within reach of real images", reach),
        names.recall: ("share of real images within reach of samples", reach),
        names.density: ("how many real images' balls a sample lies in, over k", balls),
        names.coverage: ("share of real images whose ball holds a sample", balls),
        names.kernel: ("samples with real images by the squared maximum mean discrepancy", f"{kid}; {drawn}"),
    }
    return {
        figure: Protocol(figure=figure, compares=text, notes=notes, **shared).record()
        for figure, (text, notes) in sides.items()
    }


def to_file(record: dict[str, Any], statistics: Artifact, count: int) -> dict[str, Any]:
    """The same record for a comparison with the images of the statistics' reference file."""
    given = statistics.properties["reference"]
    changed = {
        "figure": f"{record['figure']}_reference",
        "reference": f"images of {given['uri']}",
        "reference_digest": str(given["sha256"]),
        "reference_count": count,
    }
    return record | changed


def of_reconstructed(network: dict[str, Any], images: Artifact, count: int, size: int) -> dict[str, Any]:
    """Fréchet distance of reconstructions to their originals; `network` is what is known of the judge."""
    square = _square(size)
    return Protocol(
        figure=Names.of(network).reconstructed,
        compares="reconstructions, rounded to 8 bits, with their originals, as sets",
        split="test",
        count=count,
        resize=f"{square}; then {network['preprocessing']}" if network.get("preprocessing") else square,
        network=str(network["kind"]),
        network_digest=str(network["digest"]),
        reference="the original images",
        reference_count=count,
        reference_digest=images.digest,
    ).record()


def _compared(statistics: Artifact, size: int) -> dict[str, Any]:
    network = statistics.properties["network"]
    return {
        "resize": str(network.get("preprocessing", "")) or _square(size),
        "network": str(network["kind"]),
        "network_digest": str(network["digest"]),
        "reference_digest": statistics.digest,
    }


def _divided(statistics: Artifact) -> str:
    return " and ".join(str(name) for name in statistics.properties["halves"])


def _kind_of_distance(statistics: Artifact) -> str:
    network = statistics.properties["network"]
    if network.get("published"):
        return "FID: Fréchet distance of the pool_3 features of the 2015 Inception network with its published weights"
    return (
        f"Fréchet distance of the {network['kind']}'s features; not FID, which is defined on the 2015 Inception network"
    )


def _square(size: int) -> str:
    return f"short side to {size} pixels (bicubic, antialiased), centre crop; exact sizes are left as they are"
