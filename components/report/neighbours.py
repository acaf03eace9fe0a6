"""The memorisation section: how near samples come to training images, beside how near held-out images come."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from components.report import format, plots
from components.report.grids import Picture
from components.report.plots import Mark, Series

SIDES = (("samples", "samples"), ("held_out", "held-out images"))


@dataclass(frozen=True)
class Neighbours:
    """Verdict and protocol in words, both distributions as chart and rows, and the picture of the nearest pairs."""

    verdict: str
    sentence: str
    chart: str
    legend: tuple[tuple[str, str], ...]
    rows: tuple[tuple[str, tuple[str, ...]], ...]
    picture: Picture | None


def section(record: Mapping[str, Any], picture: Picture | None) -> Neighbours:
    """The section for the content of `neighbours.json`; figures that it lacks are left out."""
    sides = [record.get(name, {}) for name, _ in SIDES]
    quantiles = [{float(share): float(value) for share, value in side.get("quantiles", {}).items()} for side in sides]
    series = [
        Series(tuple(Mark(share, known[share]) for share in sorted(known)), shape)
        for shape, known in enumerate(quantiles)
    ]
    label = "Distance to the nearest training image, by share of images, of samples and of held-out images"
    return Neighbours(
        verdict(record),
        format.sentence(record.get("protocol", {})),
        plots.scatter(series, "share of images →", "↑ distance to the nearest training image", label, shares=True),
        tuple((plots.key(shape), name) for shape, (_, name) in enumerate(SIDES)),
        _rows(sides, quantiles),
        picture,
    )


def verdict(record: Mapping[str, Any]) -> str:
    """How many samples lie suspiciously near, in a sentence."""
    near, count = record.get("near"), record.get("samples", {}).get("count")
    if near is None or not count:
        return ""
    text = f"{near:,} of {count:,} samples ({100 * near / count:.1f} %) lie nearer to a training image than 99 of 100 "
    text += "held-out images do; about 1 % would if samples were as new as those"
    copies = record.get("copies")
    if copies is None:
        return f"{text}."
    return f"{text}. Within a tenth of that distance, where copies would be, lie {copies or 'none'}."


def _rows(
    sides: list[Mapping[str, Any]], quantiles: list[dict[float, float]]
) -> tuple[tuple[str, tuple[str, ...]], ...]:
    named = [(name, [side.get(name) for side in sides]) for name in ("count", "least", "mean")]
    shares = sorted({share for known in quantiles for share in known})
    named += [(f"{100 * share:g} % lie below", [known.get(share) for known in quantiles]) for share in shares]
    return tuple((name, tuple(map(_shown, values))) for name, values in named if any(v is not None for v in values))


def _shown(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
