"""The protocol that stands beside each figure of `score`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from components.api import Artifact
from components.scoring.names import Names
from components.scoring.parts import ROUNDING_DB
from vim_core.metrics.protocol import Protocol

if TYPE_CHECKING:
    from vim_core.metrics.inception_score import ScoreSums

NEIGHBOURS = 3
"""k of precision and recall; the same as `vim_core.metrics.precision_recall.NEIGHBOURS`, which needs numpy."""


def of_reconstructions(images: Artifact, made: Artifact, count: int, size: int) -> dict[str, Any]:
    """PSNR and SSIM: reconstructions against the originals at the tokenizer's size."""
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
    return {
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


def of_samples(samples: Artifact, classifier: Artifact, count: int, size: int) -> dict[str, Any]:
    """Conditional accuracy: does the classifier see in a sample the class it was drawn for."""
    return Protocol(
        figure="conditional_accuracy",
        compares="the classifier's most likely class with the class the sample was drawn for",
        split="samples",
        count=count,
        resize=_square(size),
        network="classifier",
        network_digest=classifier.digest,
        sampling=sampling(samples),
        notes="the classifier was trained on the train split and took no part in sampling",
    ).record()


def of_distance(samples: Artifact, statistics: Artifact, counts: Mapping[str, int], size: int) -> dict[str, Any]:
    """Fréchet distances under one network's features: samples against real, and real against real."""
    split = str(statistics.properties["split"])
    divided = " and ".join(str(name) for name in statistics.properties["halves"])
    shared = _compared(statistics, size)
    figure = Names.of(statistics.properties["network"]).distance
    floor = "the floor; the smaller the sets, the further apart they lie, so mind the counts when comparing"
    distance = Protocol(
        figure=figure,
        compares="samples with real images",
        split="samples",
        count=counts["samples"],
        reference=f"{split} images",
        reference_count=counts["real"],
        sampling=sampling(samples),
        notes=_kind_of_distance(statistics),
        **shared,
    )
    halves = Protocol(
        figure=f"{figure}_real_vs_real",
        compares="one half of the real images with the other, divided by a hash of their keys",
        split=divided,
        count=counts["half_0"],
        reference=f"the other half of the {divided} images",
        reference_count=counts["half_1"],
        notes=floor,
        **shared,
    )
    return {figure: distance.record(), f"{figure}_real_vs_real": halves.record()}


def of_reference(samples: Artifact, statistics: Artifact, count: int, size: int) -> dict[str, Any]:
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
        sampling=sampling(samples),
        notes=_kind_of_distance(statistics),
        **shared,
    ).record()


def of_score(samples: Artifact, statistics: Artifact, sums: ScoreSums, size: int) -> dict[str, Any]:
    """Inception Score of samples, or its like under another network."""
    network = statistics.properties["network"]
    shared = _compared(statistics, size)
    del shared["reference_digest"]
    bias = "; logits without the last bias, as torch-fidelity and guided-diffusion take them"
    return Protocol(
        figure=Names.of(network).score,
        compares="exp of the mean divergence of an image's class probabilities from those of its split",
        split="samples",
        count=sums.count,
        sampling=sampling(samples),
        notes=f"mean (and standard deviation) over {sums.counts.size} splits, sha256('score split', key) mod "
        f"{sums.counts.size}{bias if network['kind'] == 'inception' else ''}",
        **shared,
    ).record()


def of_coverage(samples: Artifact, statistics: Artifact, counts: Mapping[str, int], size: int) -> dict[str, Any]:
    """Precision and recall of samples against real images."""
    names = Names.of(statistics.properties["network"])
    shared: dict[str, Any] = {
        "split": "samples",
        "count": counts["samples"],
        "reference": f"{statistics.properties['split']} images",
        "reference_count": counts["real"],
        "sampling": sampling(samples),
        "notes": f"Kynkäänniemi et al. 2019, k = {NEIGHBOURS}, float64 distances; the images with the lowest "
        "sha256('features', key) of either side",
        **_compared(statistics, size),
    }
    sides = {
        names.precision: "share of samples within reach of real images",
        names.recall: "share of real images within reach of samples",
    }
    return {figure: Protocol(figure=figure, compares=text, **shared).record() for figure, text in sides.items()}


def _compared(statistics: Artifact, size: int) -> dict[str, Any]:
    network = statistics.properties["network"]
    return {
        "resize": str(network.get("preprocessing", "")) or _square(size),
        "network": str(network["kind"]),
        "network_digest": str(network["digest"]),
        "reference_digest": statistics.digest,
    }


def _kind_of_distance(statistics: Artifact) -> str:
    network = statistics.properties["network"]
    if network.get("published"):
        return "FID: Fréchet distance of the pool_3 features of the 2015 Inception network with its published weights"
    return (
        f"Fréchet distance of the {network['kind']}'s features; not FID, which is defined on the 2015 Inception network"
    )


def sampling(samples: Artifact) -> dict[str, Any]:
    """How the samples were drawn (temperature, guidance, filters), as their own artifact says."""
    protocol = samples.properties.get("protocol", {})
    return {key: value for key, value in protocol.items() if key != "count"}


def _square(size: int) -> str:
    return f"short side to {size} pixels (bicubic, antialiased), centre crop; exact sizes are left as they are"
