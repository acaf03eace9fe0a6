"""The page: what a reader sees of artifacts and of the run, filled into the templates beside this file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from components.contract import registry
from components.contract.api import Artifact
from components.report import accepted, comparison_tables, format, probe, svg, tradeoff
from components.report import results as figures
from components.report.accepted import Accepted
from components.report.grids import Picture
from components.report.neighbours import Neighbours

PRESET_MARK = "<!-- preset -->"
RUN_MARK = "<!-- what this run did -->"
"""Where `stamped` puts what belongs to one run; the artifact's own page is the same for all runs that reuse it."""

CURVES = ("quantize", "prior", "classify")
NOT_SHOWN = ("images_per_s", "learning_rate", "discriminator_learning_rate", "skipped", "eval/seconds")
SHOWN_FIRST = ("loss", "psnr", "test", "nll", "bits", "accuracy", "top1", "usage")
MOST_CURVES = 6


@dataclass
class Page:
    """Everything the template shows."""

    title: str
    results: Mapping[str, Any]
    artifacts: Mapping[str, Artifact]
    samples: Sequence[Picture] = ()
    reconstructions: Sequence[Picture] = ()
    accepted: Accepted | None = None
    neighbours: Neighbours | None = None
    curves: Mapping[str, Sequence[tuple[str, str]]] = field(default_factory=dict)


def render(page: Page) -> str:
    """The page as HTML without scripts or outside references. All text is escaped."""
    return filled(
        "report.html",
        page=page,
        summary=summary(page.artifacts),
        highlights=highlights(page.results),
        rows=rows(page.results),
        probe=probe.section(page.results),
        tradeoff=tradeoff.report_section(page.results.get("tradeoff")),
        accepted=page.accepted,
        by_rate=accepted.scored(page.results),
        neighbours=page.neighbours,
        tables=comparison_tables.tables([("This run", page.results)]),
        artifacts=[page.artifacts[name] for name in registry.NAMES if name in page.artifacts],
        preset_mark=PRESET_MARK,
        run_mark=RUN_MARK,
    )


def stamped(html: str, record: Mapping[str, Any], folder: str) -> str:
    """The page with what one run did: `preset`, `seconds` and `reused` by component, `mlflow`, and where it lies."""
    seconds, reused = record.get("seconds", {}), record.get("reused", {})
    steps = [(name, reused.get(name, False), format.duration(value)) for name, value in seconds.items()]
    fresh = sum(not was_there for _, was_there, _ in steps)
    total = format.duration(sum(seconds.values()))
    text = filled("run.html", steps=steps, fresh=fresh, total=total, mlflow=record.get("mlflow", {}), folder=folder)
    preset = filled("preset.html", preset=record["preset"])
    return html.replace(PRESET_MARK, preset, 1).replace(RUN_MARK, text, 1)


def summary(artifacts: Mapping[str, Artifact]) -> str:
    """What was made of which images, in a sentence or two."""
    first, second = [], []
    if "ingest" in artifacts:
        known = artifacts["ingest"].properties
        splits = " and ".join(f"{count:,} {name}" for name, count in sorted(known["splits"].items(), reverse=True))
        classes = len(known["classes"])
        first.append(f"{splits} images of {classes} classes" if classes else f"{splits} images without labels")
    if "tokenize" in artifacts:
        known = artifacts["tokenize"].properties
        height, width = known["grid"]
        first.append(f"each written as {height} × {width} tokens out of {known['vocabulary']:,} codes")
    if "prior" in artifacts:
        second.append("A prior learned to write such tokens")
    if "sample" in artifacts:
        count = int(artifacts["sample"].manifest.metrics["count"])
        second.append(f"{'and' if second else 'The prior'} drew {count:,} new images")
    return " ".join(f"{text}." for text in (", ".join(first), " ".join(second)) if text)


def highlights(results: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """The figures at the top: label, value, and what to hold it against."""
    known = figures.flat(results)
    tiles: list[tuple[str, str, str]] = []

    def tile(label: str, key: str, style: str, beside: str) -> None:
        if key in known:
            tiles.append((label, figures.shown(known[key], style), beside))

    def other(text: str, key: str, style: str) -> str:
        return f"{text} {figures.shown(known[key], style)}" if key in known else ""

    tile("Reconstruction", "quantizer.psnr_db", "db", other("SSIM", "quantizer.ssim", "number"))
    tile("Codebook usage", "quantizer.codebook_usage", "share", "on held-out images")
    tile(
        "Prior, per token", "prior.nll_bits_per_token", "bits", other("unigram", "prior.unigram_bits_per_token", "bits")
    )
    tile("Samples recognised", "samples.conditional_accuracy", "share", other("of", "samples.count", "count"))
    floor = other("real vs real", "samples.fd_classifier_real_vs_real", "number")
    tile("Fréchet distance", "samples.fd_classifier", "number", floor)
    tile("Linear probe", "probe.top1", "share", other("raw pixels", "probe.pixel_baseline_top1", "share"))
    return tiles


def rows(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row of the table of numbers per figure: label, value, sentence, and the protocol's record."""
    known = figures.flat(results)
    return [
        {
            "label": figure.label,
            "key": figure.key,
            "value": figures.shown(known[figure.key], figure.style),
            "interval": figures.interval(known, figure),
            "sentence": format.sentence(results["protocols"].get(figure.key, {})),
            "protocol": format.plain(results["protocols"].get(figure.key, {})),
        }
        for figure in figures.known(results)
        if figures.ACCEPTED not in figure.name
    ]


def curves_of(lines: bytes) -> list[tuple[str, str]]:
    """Charts of a `curves.jsonl`: (name, SVG) of its figures, losses and held-out figures first, six at most."""
    series: dict[str, list[svg.Point]] = {}
    for line in lines.splitlines():
        point = json.loads(line)
        for name, value in point.get("m", {}).items():
            series.setdefault(name, []).append((float(point["step"]), float(value)))
    shown = (name for name in series if name not in NOT_SHOWN and not name.startswith("system/"))
    names = [name for name in shown if len(series[name]) > 1 and not name.startswith("eval/best_")]
    chosen = sorted(names, key=_rank)[:MOST_CURVES]
    charts = [
        (name.replace("eval/", "held-out ").replace("_", " "), svg.curve(sorted(series[name]), name)) for name in chosen
    ]
    return [(name, chart) for name, chart in charts if chart]


def _rank(name: str) -> tuple[int, str]:
    exact = [i for i, start in enumerate(SHOWN_FIRST) if start in name]
    return (0 if name == "loss" else 1 + exact[0] if exact else len(SHOWN_FIRST) + 1, name)


def filled(template: str, **values: Any) -> str:
    """A template of the folder beside this file with these values; all text is escaped."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["duration"] = format.duration
    return environment.get_template(template).render(**values)
