"""The protocol that stands beside each figure of `score`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from components.api import Artifact
from components.scoring.parts import ROUNDING_DB
from vim_core.metrics.protocol import Protocol


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
    """Fréchet distances under the classifier's features: samples against real, and real against real."""
    split = str(statistics.properties["split"])
    divided = " and ".join(str(name) for name in statistics.properties["halves"])
    shared: dict[str, Any] = {
        "resize": _square(size),
        "network": "classifier",
        "network_digest": str(statistics.properties["network"]["digest"]),
        "reference_digest": statistics.digest,
    }
    name = "Fréchet distance of the classifier's features; not FID, which is defined on the 2015 Inception network"
    floor = "the floor; the smaller the sets, the further apart they lie, so mind the counts when comparing"
    distance = Protocol(
        figure="fd_classifier",
        compares="samples with real images",
        split="samples",
        count=counts["samples"],
        reference=f"{split} images",
        reference_count=counts["real"],
        sampling=sampling(samples),
        notes=name,
        **shared,
    )
    halves = Protocol(
        figure="fd_classifier_real_vs_real",
        compares="one half of the real images with the other, divided by a hash of their keys",
        split=divided,
        count=counts["half_0"],
        reference=f"the other half of the {divided} images",
        reference_count=counts["half_1"],
        notes=floor,
        **shared,
    )
    return {"fd_classifier": distance.record(), "fd_classifier_real_vs_real": halves.record()}


def sampling(samples: Artifact) -> dict[str, Any]:
    """How the samples were drawn (temperature, guidance, filters), as their own artifact says."""
    protocol = samples.properties.get("protocol", {})
    return {key: value for key, value in protocol.items() if key != "count"}


def _square(size: int) -> str:
    return f"short side to {size} pixels (bicubic, antialiased), centre crop; exact sizes are left as they are"
