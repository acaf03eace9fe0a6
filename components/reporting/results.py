"""`results.json`: every figure of a run in one nested record, taken from the manifests of its artifacts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from components.api import Artifact, walk


@dataclass(frozen=True)
class Figure:
    """One figure: its place in `results.json`, whose manifest has it under which name, and how people read it."""

    group: str
    name: str
    component: str
    metric: str
    label: str
    style: str = "number"

    @property
    def key(self) -> str:
        """Dotted place in `results.json`, such as 'quantizer.psnr_db'."""
        return f"{self.group}.{self.name}"


FIGURES = (
    Figure("quantizer", "psnr_db", "score", "psnr_db", "Reconstruction PSNR", "db"),
    Figure("quantizer", "ssim", "score", "ssim", "Reconstruction SSIM"),
    Figure("quantizer", "codebook_usage", "score", "codebook_usage", "Codebook usage", "share"),
    Figure("quantizer", "perplexity", "score", "perplexity", "Code perplexity", "codes"),
    Figure("prior", "nll_bits_per_token", "prior", "nll_bits_per_token", "Prior, bits per token", "bits"),
    Figure(
        "prior", "unigram_bits_per_token", "prior", "unigram_bits_per_token", "Unigram code, bits per token", "bits"
    ),
    Figure("samples", "count", "sample", "count", "Samples", "count"),
    Figure("samples", "conditional_accuracy", "score", "conditional_accuracy", "Conditional accuracy", "share"),
    Figure("samples", "fd_classifier", "score", "fd_classifier", "Fréchet distance (classifier)"),
    Figure(
        "samples", "fd_classifier_real_vs_real", "score", "fd_classifier_real_vs_real", "Fréchet distance, real vs real"
    ),
    Figure("samples", "fid", "score", "fid", "FID"),
    Figure("samples", "fid_real_vs_real", "score", "fid_real_vs_real", "FID, real vs real"),
    Figure("samples", "fid_reference", "score", "fid_reference", "FID, to the given reference"),
    Figure("samples", "inception_score", "score", "is", "Inception Score"),
    Figure("samples", "precision_inception", "score", "precision_inception", "Precision (Inception)", "share"),
    Figure("samples", "recall_inception", "score", "recall_inception", "Recall (Inception)", "share"),
    Figure("classifier", "test_accuracy", "classify", "test_accuracy", "Classifier accuracy", "share"),
    Figure("probe", "best_block", "probe", "best_block", "Best probed block", "count"),
    Figure("probe", "top1", "probe", "top1", "Linear probe accuracy", "share"),
    Figure("probe", "pixel_baseline_top1", "probe", "pixel_baseline_top1", "Probe on raw pixels", "share"),
)


def collect(preset: str, artifacts: Mapping[str, Artifact]) -> dict[str, Any]:
    """The record for a preset's artifacts by component; a component that is not among them leaves no figure.

    `seconds` is what each artifact took to make and `reused` is empty until `stamp` adds what a run did.
    """
    results: dict[str, Any] = {"preset": preset}
    protocols: dict[str, Any] = {}
    for figure in FIGURES:
        manifest = artifacts[figure.component].manifest if figure.component in artifacts else None
        if manifest is None or figure.metric not in manifest.metrics:
            continue
        value = manifest.metrics[figure.metric]
        results.setdefault(figure.group, {})[figure.name] = int(value) if figure.style == "count" else value
        if figure.metric in manifest.protocols:
            protocols[figure.key] = manifest.protocols[figure.metric]
    if "probe" in artifacts:
        per_block = artifacts["probe"].properties["accuracy_per_block"]
        results.setdefault("probe", {})["accuracy_per_block"] = list(per_block)
    results["seconds"] = {name: artifact.manifest.seconds for name, artifact in walk(artifacts)}
    results["reused"] = {}
    results["protocols"] = protocols
    results["artifacts"] = {
        name: {"fingerprint": a.manifest.fingerprint, "digest": a.digest, "folder": a.folder}
        for name, a in walk(artifacts)
    }
    results["mlflow"] = {}
    return results


def stamp(results: Mapping[str, Any], record: Mapping[str, Any]) -> dict[str, Any]:
    """The record with what one run did: `preset`, `seconds` and `reused` by component, `mlflow` (address, run id)."""
    done = {key: dict(record.get(key, {})) for key in ("seconds", "reused", "mlflow")}
    return {**results, "preset": record.get("preset", results["preset"]), **done}


def shown(value: float | int, style: str) -> str:
    """A figure as people read it, with its unit."""
    if style == "share":
        return f"{100 * value:.1f} %"
    if style == "count":
        return f"{int(value):,}"
    unit = {"db": " dB", "bits": " bits", "codes": " codes"}.get(style, "")
    digits = 1 if style == "codes" else 2 if style in ("db", "bits") else 3
    return f"{value:,.{digits}f}{unit}"
