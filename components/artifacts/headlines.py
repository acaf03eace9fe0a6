"""Headline figures of artifacts, shown in the terminal and as columns of a pipeline's MLflow run."""

from __future__ import annotations

from components.contract.api import Artifact

HEADLINES = {
    "ingest": ("train", "test", "dead_letter"),
    "classify": ("test_accuracy",),
    "selector": ("test_accuracy",),
    "statistics": ("count",),
    "quantize": ("test_psnr_db",),
    "tokenize": ("images", "tokens"),
    "reconstruct": ("images",),
    "prior": ("nll_bits_per_token", "unigram_bits_per_token"),
    "sample": ("count", "images_per_s"),
    "select": ("candidates", "agreeing", "count"),
    "score": ("psnr_db", "codebook_usage", "conditional_accuracy", "fd_classifier", "fid", "is"),
    "tradeoff": ("points", "best_fd", "best_guidance", "best_guidance_low", "best_guidance_high"),
    "probe": ("best_block", "top1", "pixel_baseline_top1"),
}


def figures(artifact: Artifact) -> dict[str, float]:
    """An artifact's headline figures, in the order of `HEADLINES`."""
    metrics = artifact.manifest.metrics
    return {key: metrics[key] for key in HEADLINES.get(artifact.manifest.component, ()) if key in metrics}


def text(artifact: Artifact) -> str:
    """The same as text, such as `test_psnr_db 22.5`."""
    return ", ".join(f"{key} {value:.5g}" for key, value in figures(artifact).items())
