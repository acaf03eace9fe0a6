"""The metrics that a report shows: where `results.json` has them, names, units, directions, protocols in words."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

ACCEPTED = "_accepted_"
"""Separates a metric's name from the acceptance rate of the samples it was measured on."""
BOUNDS = ("_low", "_high")
"""Endings of a metric's name for the two ends of its interval."""


@dataclass(frozen=True)
class Metric:
    """One metric: its group and name in `results.json`, the component that measures it, and how people read it.

    `source` is the name in the component's manifest, where that is another one.
    """

    group: str
    name: str
    component: str
    label: str
    style: str = "number"
    source: str = ""

    @property
    def key(self) -> str:
        """Dotted name in `results.json`, such as 'quantizer.psnr_db'."""
        return f"{self.group}.{self.name}"


METRICS = (
    Metric("quantizer", "psnr_db", "score", "Reconstruction PSNR", "db"),
    Metric("quantizer", "ssim", "score", "Reconstruction SSIM"),
    Metric("quantizer", "codebook_usage", "score", "Codebook usage", "share"),
    Metric("quantizer", "perplexity", "score", "Code perplexity", "codes"),
    Metric("prior", "nll_bits_per_token", "prior", "Prior, bits per token", "bits"),
    Metric("prior", "unigram_bits_per_token", "prior", "Unigram code, bits per token", "bits"),
    Metric("samples", "count", "sample", "Samples", "count"),
    Metric("samples", "conditional_accuracy", "score", "Conditional accuracy", "share"),
    Metric("samples", "fd_classifier", "score", "Fréchet distance (classifier features)"),
    Metric("samples", "fd_classifier_real_vs_real", "score", "Fréchet distance (classifier features), real vs real"),
    Metric("samples", "fid", "score", "FID"),
    Metric("samples", "fid_real_vs_real", "score", "FID, real vs real"),
    Metric("samples", "fid_reference", "score", "FID, to the given reference"),
    Metric("samples", "inception_score", "score", "Inception Score", source="is"),
    Metric("samples", "precision_inception", "score", "Precision (Inception)", "share"),
    Metric("samples", "recall_inception", "score", "Recall (Inception)", "share"),
    Metric("classifier", "test_accuracy", "classify", "Classifier accuracy", "share"),
    Metric("probe", "best_block", "probe", "Best probed block", "count"),
    Metric("probe", "top1", "probe", "Linear probe, best block on test images", "share"),
    Metric("probe", "chosen_top1", "probe", "Linear probe, block chosen on validation images", "share"),
    Metric("probe", "ridge_top1", "probe", "Ridge probe accuracy", "share"),
    Metric("probe", "pixel_baseline_top1", "probe", "Probe on raw pixels", "share"),
)
"""Metrics with a label of their own; `score` measures others too, which `unlisted` names."""

GROUPS = tuple(dict.fromkeys(metric.group for metric in METRICS))
HIGHER_IS_BETTER = {
    "psnr", "ssim", "is", "inception", "precision", "recall", "density", "coverage", "accuracy", "usage", "top1",
}  # fmt: skip
LOWER_IS_BETTER = {"fid", "sfid", "rfid", "fd", "sfd", "rfd", "kid", "kd", "lpips", "nll", "l1", "l2"}
SHARES = {"accuracy", "usage", "precision", "recall", "coverage", "top1", "near"}
RECONSTRUCTION = {"rfid", "rfd", "lpips", "l1", "l2", "logit", "reconstruction"}
"""Words in the names of metrics of reconstructions."""
OF_FEATURES = {
    "fd": "Fréchet distance",
    "sfd": "Spatial Fréchet distance",
    "rfd": "Fréchet distance of reconstructions",
    "kd": "Kernel distance",
    "is": "Score like Inception's",
    **{name: name.capitalize() for name in ("precision", "recall", "density", "coverage")},
}
"""Labels by the first word of a metric's name, of those whose next word is the network of the features."""
LABELS = {
    "is": "Inception Score",
    "psnr": "PSNR",
    "neighbours": "Nearest training images,",
    **{name: name.upper() for name in ("fid", "sfid", "kid", "lpips", "ssim")},
    "rfid": "rFID",
}
"""Labels by the first word of other names."""


def words(name: str) -> set[str]:
    """The words of a metric's name."""
    return set(re.split(r"[._]", name))


def direction(name: str) -> int:
    """1 if a higher value of this metric is better, -1 if a lower one is, 0 if neither."""
    known = words(name)
    if "vs" in known:
        return 0
    return -1 if known & LOWER_IS_BETTER else 1 if known & HIGHER_IS_BETTER else 0


def style(name: str) -> str:
    """The style of a metric by its name: `share` or `number`."""
    return "share" if words(name) & SHARES else "number"


def label(name: str) -> str:
    """A metric of `score` for people; FID and Inception Score only where they are of the published network."""
    base, _, rate = name.partition(ACCEPTED)
    base, compared, _ = base.partition("_real_vs_real")
    first, *rest = base.split("_")
    text = LABELS.get(first, first[:1].upper() + first[1:])
    if first in OF_FEATURES and (rest or first not in LABELS):
        network, *rest = rest or [""]
        text = OF_FEATURES[first] + (f" ({network} features)" if network else "")
    if compared:
        rest = [*rest[:-1], f"{rest[-1]}, real vs real"] if rest else [", real vs real"]
    return " ".join([text, *rest]).removesuffix(",") + (f", acceptance {rate}" if rate else "")


def unlisted(name: str, protocol: Mapping[str, Any]) -> Metric:
    """A metric of `score` that `METRICS` lacks; its protocol decides whether it is of the tokenizer or of samples."""
    base = name.partition(ACCEPTED)[0]
    of_tokenizer = protocol.get("network") == "tokenizer" or words(base) & RECONSTRUCTION
    return Metric("quantizer" if of_tokenizer else "samples", name, "score", label(name), style(base))


def present(results: Mapping[str, Any]) -> list[Metric]:
    """The metrics that a `results.json` has, those of `METRICS` first."""
    listed = [metric for metric in METRICS if metric.name in results.get(metric.group, {})]
    protocols: Mapping[str, Any] = results.get("protocols", {})
    names = {key: key.partition(".") for key in protocols if key not in {metric.key for metric in listed}}
    others = [
        unlisted(name, protocols[key]) for key, (group, _, name) in names.items() if name in results.get(group, {})
    ]
    return [*listed, *others]


def values(results: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a `results.json` by dotted name, with the ends of their intervals."""
    return {f"{group}.{name}": value for group in GROUPS for name, value in results.get(group, {}).items()}


def format_value(value: float | int, style: str) -> str:
    """A value for people, with its unit."""
    if style == "share":
        return f"{100 * value:.1f} %"
    if style == "count":
        return f"{int(value):,}"
    unit = {"db": " dB", "bits": " bits", "codes": " codes"}.get(style, "")
    digits = 1 if style == "codes" else 2 if style in ("db", "bits") else 3
    return f"{value:,.{digits}f}{unit}"


def interval(values: Mapping[str, Any], name: str) -> dict[str, float]:
    """The ends of a metric's interval by their endings (see `BOUNDS`), as far as `values` has them."""
    return {end: values[name + end] for end in BOUNDS if values.get(name + end) is not None}


def measured(results: Mapping[str, Any], metric: Metric) -> tuple[float, tuple[float, ...]]:
    """The value of a metric that a `results.json` has, and both ends of its interval, or () where one is missing."""
    ends = tuple(map(float, interval(results[metric.group], metric.name).values()))
    return float(results[metric.group][metric.name]), ends if len(ends) == len(BOUNDS) else ()


def formatted(results: Mapping[str, Any], metric: Metric) -> tuple[str, str]:
    """The value and the interval ('' without one) of a metric that a `results.json` has, for people."""
    return format_figure(*measured(results, metric), metric.style)


def format_figure(value: float, ends: Sequence[float], style: str) -> tuple[str, str]:
    """A value and the ends of its interval for people, '' where there are none."""
    texts = [format_value(end, style) for end in ends]
    unit = format_value(value, style).partition(" ")[2]
    # the unit once, after the second end
    return format_value(value, style), " to ".join(
        [*(text.removesuffix(f" {unit}") for text in texts[:-1]), *texts[-1:]]
    )


def sentence(protocol: Mapping[str, Any]) -> str:
    """The protocol as a sentence: what is compared, on how many images of which split, and how samples were drawn."""
    if not protocol:
        return ""
    split, count = protocol.get("split", ""), protocol.get("count")
    compares = str(protocol.get("compares", ""))
    images = "samples" if split == "samples" else f"{split} images".strip()
    on = f"on {count:,} {images}" if isinstance(count, int) else f"on {images}" if split else ""
    against = ""
    if protocol.get("reference_count"):
        against = f"against {protocol['reference_count']:,} ({protocol['reference']})"
    drawn = ", ".join(sampling_choices(protocol.get("sampling", {})))
    text = ", ".join(part for part in (compares, " ".join(part for part in (on, against) if part)) if part)
    text = text[:1].upper() + text[1:]
    return f"{text}; drawn with {drawn}." if drawn else f"{text}." if text else ""


def sampling_choices(sampling: Mapping[str, Any]) -> list[str]:
    """The temperature, and guidance and filters where they are on, such as ['temperature 1', 'top-p 0.9']."""
    off = {"guidance": 1, "top_k": 0, "top_p": 1}
    names = [n for n in ("temperature", *off) if n in sampling and (n not in off or sampling[n] != off[n])]
    return [f"{name.replace('_', '-')} {sampling[name]:g}" for name in names]


def field_text(value: Any) -> str:
    """A protocol's value for people."""
    return ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, Mapping) else str(value)
