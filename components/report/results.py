"""`results.json`: every figure of a run in one nested record, taken from the manifests of its artifacts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from components.contract.api import Artifact, walk
from vim_core.storage import io


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
    Figure("probe", "chosen_top1", "probe", "chosen_top1", "Linear probe, block chosen on train", "share"),
    Figure("probe", "ridge_top1", "probe", "ridge_top1", "Ridge probe accuracy", "share"),
    Figure("probe", "pixel_baseline_top1", "probe", "pixel_baseline_top1", "Probe on raw pixels", "share"),
)


GROUPS = tuple(dict.fromkeys(figure.group for figure in FIGURES))
RISES = ("psnr", "ssim", "is", "inception", "precision", "recall", "density", "coverage", "accuracy", "usage", "top1")
FALLS = ("fid", "sfid", "rfid", "fd", "sfd", "rfd", "kid", "kd", "lpips", "nll", "l1", "l2")
SHARES = ("accuracy", "usage", "precision", "recall", "coverage", "top1", "near")
RECONSTRUCTED = ("rfid", "rfd", "lpips", "l1", "l2", "logit", "reconstruction")
IN_WORDS = {
    "fd": "Fréchet distance,",
    "sfd": "Spatial Fréchet distance,",
    "rfd": "Fréchet distance of reconstructions,",
    "kd": "Kernel distance,",
    "is": "Inception Score",
    "neighbours": "Nearest training images,",
    **{name: name.upper() for name in ("fid", "sfid", "kid", "lpips")},
    "rfid": "rFID",
}
ACCEPTED = "_accepted_"
"""Stands in a figure's name between what it is and the acceptance rate of the samples it is of."""
BOUNDS = ("_low", "_high")
COMPUTE = ("device", "dtype", "threads", "world")
PER_BLOCK = ("accuracy_per_block", "ridge_accuracy_per_block")
SUMMARIES = {"tradeoff": ("tradeoff", "tradeoff.json"), "neighbours": ("score", "neighbours.json")}
"""Records that components keep as JSON: place in `results.json`, whose artifact, file."""


def better(name: str) -> int:
    """1 if a higher figure of this name is better, -1 if a lower one is, 0 if it is no matter of good or bad."""
    words = name.split(".", 1)[-1].split("_")
    if "vs" in words:
        return 0
    return -1 if set(words) & set(FALLS) else 1 if set(words) & set(RISES) else 0


def collect(preset: str, artifacts: Mapping[str, Artifact]) -> dict[str, Any]:
    """The record for a preset's artifacts by component; a component that is not among them leaves no figure.

    A figure's interval stands beside it as `<name>_low` and `<name>_high`. `seconds` is what each artifact took to
    make and `reused` is empty until `stamp` adds what a run did; `compute` keeps what making them took.
    """
    results: dict[str, Any] = {"preset": preset}
    protocols: dict[str, Any] = {}
    for figure in (*FIGURES, *further(artifacts)):
        manifest = artifacts[figure.component].manifest if figure.component in artifacts else None
        if manifest is None or figure.metric not in manifest.metrics:
            continue
        value = manifest.metrics[figure.metric]
        group = results.setdefault(figure.group, {})
        group[figure.name] = int(value) if figure.style == "count" else value
        ends = {end: manifest.metrics.get(figure.metric + end) for end in BOUNDS}
        group |= {figure.name + end: bound for end, bound in ends.items() if bound is not None}
        if figure.metric in manifest.protocols:
            protocols[figure.key] = manifest.protocols[figure.metric]
    if "probe" in artifacts:
        given = artifacts["probe"].properties
        kept = {name: list(given[name]) for name in PER_BLOCK if name in given}
        results["probe"] = results.get("probe", {}) | kept
    for place, (component, name) in SUMMARIES.items():
        found = attached(artifacts, component, name)
        if found is not None:
            results[place] = json.loads(found)
    results |= _circumstances(artifacts)
    results["seconds"] = {name: artifact.manifest.seconds for name, artifact in walk(artifacts)}
    results["reused"] = {}
    results["protocols"] = protocols
    results["artifacts"] = {
        name: {"fingerprint": a.manifest.fingerprint, "digest": a.digest, "folder": a.folder}
        for name, a in walk(artifacts)
    }
    results["mlflow"] = {}
    return results


def further(artifacts: Mapping[str, Artifact]) -> list[Figure]:
    """Figures of `score` that the list above does not name: every metric that comes with a protocol."""
    if "score" not in artifacts:
        return []
    manifest = artifacts["score"].manifest
    named = {figure.metric for figure in FIGURES if figure.component == "score"}
    names = [name for name in manifest.metrics if name in manifest.protocols and name not in named]
    return [_unnamed(name, manifest.protocols[name]) for name in names if not name.endswith((*BOUNDS, "_std"))]


def flat(results: Mapping[str, Any]) -> dict[str, Any]:
    """Figures by dotted name, those the preset has."""
    return {f"{group}.{name}": value for group in GROUPS for name, value in results.get(group, {}).items()}


def known(results: Mapping[str, Any]) -> list[Figure]:
    """Figures that a record has, listed ones first; a record read from a file has those of `further` too."""
    listed = [figure for figure in FIGURES if figure.name in results.get(figure.group, {})]
    keys = {figure.key for figure in listed}
    protocols: Mapping[str, Any] = results.get("protocols", {})
    others = [
        key for key in protocols if key not in keys and key.partition(".")[2] in results.get(key.partition(".")[0], {})
    ]
    return [*listed, *(_unnamed(key.partition(".")[2], protocols[key]) for key in others)]


def interval(values: Mapping[str, Any], figure: Figure) -> str:
    """A figure's interval for people, of values by dotted name, or the empty string."""
    low, high = (values.get(figure.key + end) for end in BOUNDS)
    return "" if low is None or high is None else f"{shown(low, figure.style)} to {shown(high, figure.style)}"


def attached(artifacts: Mapping[str, Artifact], component: str, name: str) -> bytes | None:
    """A file of a component's artifact, or None where the component or the file is absent."""
    if component not in artifacts or all(entry.name != name for entry in artifacts[component].manifest.files):
        return None
    return io.read_bytes(artifacts[component].uri(name))


def _unnamed(metric: str, protocol: Mapping[str, Any]) -> Figure:
    name, _, rate = metric.partition(ACCEPTED)
    words = name.split("_")
    own = protocol.get("network") == "tokenizer" or set(words) & set(RECONSTRUCTED)
    group = "quantizer" if own else "samples"
    first = IN_WORDS.get(words[0], words[0][:1].upper() + words[0][1:])
    if words[0] == "is" and words[1:]:
        first = "Score like Inception's,"
    label = " ".join([first, *words[1:]]).removesuffix(",") + (f", acceptance {rate}" if rate else "")
    style = "share" if set(words) & set(SHARES) else "number"
    return Figure(group, metric, "score", metric, label, style)


def _circumstances(artifacts: Mapping[str, Artifact]) -> dict[str, Any]:
    """Settings of every component, what it took to make its artifact, the images, the tokenizer."""
    record: dict[str, Any] = {"settings": {}, "compute": {}}
    for name, artifact in walk(artifacts):
        manifest = artifact.manifest
        record["settings"][name] = manifest.config
        numeric = {key: manifest.numeric[key] for key in COMPUTE if key in manifest.numeric}
        record["compute"][name] = {"seconds": manifest.seconds, **numeric}
    if "ingest" in artifacts:
        manifest = artifacts["ingest"].manifest
        given = {key: manifest.properties[key] for key in ("splits", "image_size") if key in manifest.properties}
        source = str(manifest.config.get("source", ""))
        classes = len(manifest.properties.get("classes", []))
        record["data"] = {"digest": manifest.digest, "source": source, "classes": classes, **given}
    if "quantize" in artifacts:
        about = artifacts["quantize"].properties
        keys = ("grid", "image_size", "vocabulary", "perceptual")
        record["tokenizer"] = {key: about[key] for key in keys if key in about}
    return record


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
