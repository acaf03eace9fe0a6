"""Sections of the page that a preset may lack: samples by acceptance rate, nearest neighbours, the linear probe."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

from components.contract.api import Artifact
from components.report import charts, grids, metrics, svg
from components.report.grids import Picture
from components.report.metrics import ACCEPTED, Metric
from components.report.svg import Mark, Series
from components.tradeoff.grid import label

SAMPLES_PER_POINT = 8
SAMPLES_PER_RATE = 4
"""Samples shown of each class at each acceptance rate: a few, since every rate has its own column."""
PROBED_TOKENIZER = {
    True: "The tokenizer was trained with the perceptual loss, whose network was trained on labels: the paper leaves "
    "it out for its probes, so this accuracy stands apart from its Table 7.",
    False: "The tokenizer was trained without the perceptual loss, as the paper's was, so that no label reached it.",
}
"""Labels in the codes: the perceptual loss carries those of the network behind it (section 3.3)."""

T = TypeVar("T")


class ByRate(NamedTuple, Generic[T]):
    """Acceptance rates as written in the settings, loosest first, and named rows of a cell per rate."""

    rates: tuple[str, ...]
    rows: tuple[tuple[str, tuple[T, ...]], ...]


@dataclass(frozen=True)
class PointSamples:
    """The first samples of points of a sweep that share them: the points' numbers, their settings in words, a strip."""

    numbers: tuple[int, ...]
    label: str
    picture: Picture


@dataclass(frozen=True)
class Neighbours:
    """The memorisation check: verdict and protocol in words, both distributions as chart and rows, nearest pairs."""

    verdict: str
    sentence: str
    chart: str
    legend: tuple[tuple[str, str], ...]
    rows: tuple[tuple[str, tuple[str, ...]], ...]
    picture: Picture | None


@dataclass(frozen=True)
class Probe:
    """The linear probe: chart, the accuracy on raw pixels, and a remark on the tokenizer.

    `blocks` are (accuracy, accuracy of the head fitted by ridge regression) of each block, `best` is one's number.
    """

    chart: str
    blocks: tuple[tuple[str, str], ...]
    best: int
    baseline: str
    ridge: bool
    tokenizer: str


def point_samples(points: Sequence[Mapping[str, Any]], samples: Mapping[int, Artifact]) -> list[PointSamples]:
    """A strip for each artifact of `sample` among a sweep's points: images of the same numbers, so of the same noise.

    `points` are those of the sweep's record, `samples` the artifacts by the points' numbers.
    """
    members: dict[str, list[Mapping[str, Any]]] = {}
    for point in points:
        artifact = samples.get(point["number"])
        if artifact is not None and any(entry.name.startswith("images/") for entry in artifact.manifest.files):
            members.setdefault(artifact.digest, []).append(point)
    strips = []
    for group in members.values():
        first = group[0]["settings"]
        common = {key: value for key, value in first.items() if all(p["settings"].get(key) == value for p in group)}
        words = label(common)
        picture = grids.first_samples(samples[group[0]["number"]], SAMPLES_PER_POINT, f"First samples at {words}")
        strips.append(PointSamples(tuple(point["number"] for point in group), words, picture))
    return strips


def accepted_samples(selected: Artifact, max_classes: int) -> ByRate[Picture | None] | None:
    """Samples that the artifact of `select` has at each acceptance rate, a row a class; None where it has no images."""
    prefix = "images/accepted-"
    files = [entry.name.removeprefix(prefix) for entry in selected.manifest.files if entry.name.startswith(prefix)]
    rates = sorted({name.split("-")[0] for name in files}, key=float, reverse=True)
    classes = selected.properties.get("classes", [])
    strips = [grids.accepted_by_class(selected, rate, classes, SAMPLES_PER_RATE, max_classes) for rate in rates]
    labels = sorted({label for strip in strips for label in strip})[:max_classes]
    if not labels:
        return None
    rows = [
        ("–" if label < 0 else grids.class_name(classes, label), tuple(strip.get(label) for strip in strips))
        for label in labels
    ]
    return ByRate(tuple(rates), tuple(rows))


def metrics_by_rate(record: Mapping[str, Any]) -> ByRate[tuple[str, str]] | None:
    """The metrics that `score` measured at each acceptance rate, on equally many images; None without selection."""
    by_name: dict[str, dict[str, Metric]] = {}
    for metric in metrics.present(record):
        name, separator, rate = metric.name.partition(ACCEPTED)
        if separator:
            by_name.setdefault(name, {})[rate] = metric
    rates = sorted({rate for by_rate in by_name.values() for rate in by_rate}, key=float, reverse=True)
    if not rates:
        return None
    rows = []
    for by_rate in by_name.values():
        label = next(iter(by_rate.values())).label.partition(", acceptance ")[0]
        cells = (metrics.formatted(record, by_rate[rate]) if rate in by_rate else ("–", "") for rate in rates)
        rows.append((label, tuple(cells)))
    return ByRate(tuple(rates), tuple(rows))


def neighbours(record: Mapping[str, Any], picture: Picture | None) -> Neighbours:
    """The section for the content of `neighbours.json`; numbers that it lacks are left out."""
    sides = [record.get(name, {}) for name in ("samples", "held_out")]
    quantiles = [{float(share): float(value) for share, value in side.get("quantiles", {}).items()} for side in sides]
    series = [
        Series(
            tuple(
                Mark(share, values[share], note=f"{100 * share:g} % below {values[share]:.4g}")
                for share in sorted(values)
            ),
            shape,
        )
        for shape, values in enumerate(quantiles)
    ]
    rows = [(name, [side.get(name) for side in sides]) for name in ("count", "least", "mean")]
    shares = sorted({share for values in quantiles for share in values})
    rows += [(f"{100 * share:g} % lie below", [values.get(share) for values in quantiles]) for share in shares]

    def text(value: float | None) -> str:
        return "–" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:.4g}"

    verdict, near, count, copies = "", record.get("near"), sides[0].get("count"), record.get("copies")
    if near is not None and count:
        verdict = f"{near:,} of {count:,} samples ({100 * near / count:.1f} %) lie nearer to a training image than "
        verdict += "99 of 100 held-out images do; about 1 % would if samples were as new as those."
        if copies is not None:
            verdict += f" Within a tenth of that distance, where copies would be, lie {copies or 'none'}."
    label = "Distance to the nearest training image, by share of images, of samples and of held-out images"
    return Neighbours(
        verdict=verdict,
        sentence=metrics.sentence(record.get("protocol", {})),
        chart=charts.scatter(
            series, "share of images →", "↑ distance to the nearest training image", label, shares=True
        ),
        legend=((svg.legend_key(0), "samples"), (svg.legend_key(1), "held-out images")),
        rows=tuple((name, tuple(map(text, cells))) for name, cells in rows if cells != [None, None]),
        picture=picture,
    )


def probe(results: Mapping[str, Any]) -> Probe | None:
    """The probe's section, or None without a probe."""
    record = results.get("probe", {})
    accuracies, ridge = record.get("accuracy_per_block"), record.get("ridge_accuracy_per_block") or []
    if not accuracies:
        return None

    def share(value: float) -> str:
        return metrics.format_value(value, "share")

    baseline = record.get("pixel_baseline_top1")
    perceptual = results.get("tokenizer", {}).get("perceptual")
    best = max(range(len(accuracies)), key=accuracies.__getitem__)
    both = list(itertools.zip_longest(accuracies, ridge))[: len(accuracies)]
    label = f"Probe accuracy per block, best {share(accuracies[best])} at block {best}"
    if ridge:
        label += f"; by ridge regression at most {share(max(ridge))}"
    return Probe(
        chart=charts.block_chart(accuracies, baseline, label, ridge),
        blocks=tuple((share(own), "–" if other is None else share(other)) for own, other in both),
        best=best,
        baseline="" if baseline is None else share(baseline),
        ridge=bool(ridge),
        tokenizer="" if perceptual is None else PROBED_TOKENIZER[bool(perceptual)],
    )
