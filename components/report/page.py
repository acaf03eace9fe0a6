"""Pages of the report, of a sweep and of several runs: content filled into the templates beside this file."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.contract import registry
from components.contract.api import Artifact
from components.report import charts, compare, metrics, paper_comparison, sections, tradeoff
from components.report.svg import Point
from vim_core.text import duration

if TYPE_CHECKING:
    from jinja2 import Environment

PRESET_MARK = "<!-- preset -->"
RUN_MARK = "<!-- what this run did -->"
"""Where `stamped` inserts the data of one run; the artifact's own page is the same for all runs that reuse it."""

HIGHLIGHTS = (
    ("Reconstruction", "quantizer.psnr_db", "SSIM", "quantizer.ssim"),
    ("Codebook usage", "quantizer.codebook_usage", "in a batch of images", ""),
    ("Prior, per token", "prior.nll_bits_per_token", "unigram", "prior.unigram_bits_per_token"),
    ("Samples recognised", "samples.conditional_accuracy", "of", "samples.count"),
    ("Fréchet distance", "samples.fd_classifier", "real vs real", "samples.fd_classifier_real_vs_real"),
    ("Linear probe", "probe.chosen_top1", "raw pixels", "probe.pixel_baseline_top1"),
)
"""Metrics at the top of the report: label, dotted name, and words before another metric that is shown beside it."""
TRAINED = ("quantize", "prior", "classify")
CONTENTS = {
    "remarks": "Remarks",
    "samples": "Samples",
    "accepted": "By acceptance",
    "tradeoff": "Trade-off",
    "neighbours": "Nearest images",
    "reconstructions": "Reconstructions",
    "numbers": "Numbers",
    "paper": "Beside the paper",
    "probe": "Linear probe",
    "training": "Training",
    "run": "This run",
    "lineage": "Lineage",
}
"""Sections of the report in their order, by id, as its contents name them."""
HELD_OUT = ("eval/", "test_")
"""Beginnings of the names of curves of held-out images; each is drawn into the training's curve of that name."""
HIDDEN_CURVES = ("images_per_s", "learning_rate", "discriminator_learning_rate", "skipped", "eval/seconds")
FIRST_CURVES = ("loss", "psnr", "test", "nll", "bits", "accuracy", "top1", "usage")
MOST_CURVES = 6


def render(title: str, results: Mapping[str, Any], artifacts: Mapping[str, Artifact], content: dict[str, Any]) -> str:
    """The report's page as HTML without scripts or outside references. All text is escaped.

    `content` has further values of the template: `samples` and `reconstructions` (pictures), `accepted`, `neighbours`
    (see `sections`), each None where there is none, and `curves`, a list of (name, SVG) by training component.
    """
    values = {
        "rows": rows(results),
        "remarks": results.get("remarks", []),
        "probe": sections.probe(results),
        "tradeoff": tradeoff.report_section(results.get("tradeoff")),
        "by_rate": sections.metrics_by_rate(results),
        "tables": paper_comparison.tables([(paper_comparison.THIS_RUN, results)]),
        "artifacts": [artifacts[name] for name in registry.NAMES if name in artifacts],
        **content,
    }
    filled = {"accepted": "by_rate", "numbers": "rows", "paper": "tables", "training": "curves", "lineage": "artifacts"}
    present = {name: values.get(name) or values.get(filled.get(name, "")) for name in CONTENTS} | {"run": True}
    return _filled(
        "report.html",
        title=title,
        summary=summary(artifacts),
        highlights=highlights(results),
        sections=[(name, words) for name, words in CONTENTS.items() if present[name]],
        preset_mark=PRESET_MARK,
        run_mark=RUN_MARK,
        **values,
    )


def sweep_page(
    results: Mapping[str, Any], samples: Sequence[sections.PointSamples] = (), links: Mapping[int, str] | None = None
) -> str:
    """A sweep's page as HTML without scripts or outside references. All text is escaped.

    `links` are the addresses of points' MLflow runs by the points' numbers, 0 being the sweep's own.
    """
    return _filled(
        "sweep.html",
        title=f"Sweep {results['sweep']}",
        results=results,
        groups=[tradeoff.section(results, group) for group in results["groups"]],
        failed=[point for point in results["points"] if point["status"] == "failed"],
        shared=tradeoff.sharing(results),
        samples=samples,
        links=links or {},
    )


def comparison_page(runs: Sequence[compare.Run]) -> str:
    """The page of `vimctl compare` as HTML without scripts or outside references. All text is escaped."""
    lines, refusals = compare.compare(runs)
    return _filled(
        "compare.html",
        runs=runs,
        lines=lines,
        refusals=refusals,
        settings=compare.settings_that_differ(runs),
        recorded=all("settings" in run.record for run in runs),
        costs=compare.costs(runs),
        tables=paper_comparison.tables([(run.name, run.record) for run in runs]),
    )


def _filled(template: str, **values: Any) -> str:
    """A template with these values; all text is escaped, and a missing value is an error."""
    return _environment().get_template(template).render(**values)


@functools.cache
def _environment() -> Environment:
    """The templates, each compiled once."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["duration"] = duration
    return environment


def stamped(html: str, record: Mapping[str, Any], folder: str) -> str:
    """Return the page with one run's data: `preset`, `seconds` and `reused` by component, `mlflow`, and its address."""
    seconds, reused = record.get("seconds", {}), record.get("reused", {})
    steps = [(name, reused.get(name, False), duration(value)) for name, value in seconds.items()]
    text = _filled(
        "run.html",
        steps=steps,
        fresh=sum(not was_reused for _, was_reused, _ in steps),
        total=duration(sum(seconds.values())),
        mlflow=record.get("mlflow", {}),
        folder=folder,
    )
    preset = _filled("preset.html", preset=record["preset"])
    return html.replace(PRESET_MARK, preset, 1).replace(RUN_MARK, text, 1)


def summary(artifacts: Mapping[str, Artifact]) -> str:
    """A sentence or two on the images, their tokens and the samples."""
    first, second = [], []
    if "ingest" in artifacts:
        images = artifacts["ingest"].properties
        splits = " and ".join(f"{count:,} {name}" for name, count in sorted(images["splits"].items(), reverse=True))
        classes = len(images["classes"])
        kinds = f"of {classes} class{'es' * (classes != 1)}" if classes else "without labels"
        first.append(f"{splits} images {kinds}")
    if "tokenize" in artifacts:
        codes = artifacts["tokenize"].properties
        height, width = codes["grid"]
        first.append(f"each written as {height} × {width} tokens out of {codes['vocabulary']:,} codes")
    if "prior" in artifacts:
        second.append("A prior learned to write such tokens")
    if "sample" in artifacts:
        count = int(artifacts["sample"].manifest.metrics["count"])
        second.append(f"{'and' if second else 'The prior'} drew {count:,} new images")
    return " ".join(f"{text}." for text in (", ".join(first), " ".join(second)) if text)


def highlights(results: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    """The metrics at the top: label, value, its interval ('' for none), and a number to compare it with."""
    values, styles = metrics.values(results), {metric.key: metric for metric in metrics.METRICS}
    tiles = []
    for label, key, words, other in HIGHLIGHTS:
        key = key if key in values else key.replace("chosen_", "")  # reports of early versions lack it
        if key in values:
            beside = f"{words} {metrics.format_value(values[other], styles[other].style)}" if other in values else ""
            tiles.append((label, *metrics.formatted(results, styles[key]), beside if other else words))
    return tiles


def rows(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row of the table of numbers per metric: label, value, interval, and its protocol as sentence and fields."""
    table = []
    for metric in metrics.present(results):
        if metrics.ACCEPTED in metric.name:
            continue
        protocol = results["protocols"].get(metric.key, {})
        value, interval = metrics.formatted(results, metric)
        table.append(
            {
                "label": metric.label,
                "key": metric.key,
                "value": value,
                "interval": interval,
                "sentence": metrics.sentence(protocol),
                "protocol": [(key.replace("_", " "), metrics.field_text(value)) for key, value in protocol.items()],
            }
        )
    return table


def training_charts(lines: bytes) -> list[tuple[str, charts.Chart]]:
    """Charts of a `curves.jsonl`: (name, chart), losses and held-out metrics first, six at most.

    A held-out curve is drawn beside the training's own of that name, where there is one.
    """
    series: dict[str, list[Point]] = {}
    for line in lines.splitlines():
        point = json.loads(line)
        for name, value in point.get("m", {}).items():
            series.setdefault(name, []).append((float(point["step"]), float(value)))

    def rank(name: str) -> tuple[int, str]:
        order = next((i for i, word in enumerate(FIRST_CURVES, 1) if word in name), len(FIRST_CURVES) + 1)
        return (0 if name == "loss" else order, name)

    shown = [name for name, points in series.items() if len(points) > 1 and name not in HIDDEN_CURVES]
    shown = [name for name in shown if not name.startswith(("system/", "eval/best_"))]
    held_out = {base: name for name in shown for start in HELD_OUT if (base := name.removeprefix(start)) != name}
    pairs = {name: held_out[name] for name in shown if name in held_out}
    drawn = []
    for name in sorted((name for name in shown if name not in pairs.values()), key=rank)[:MOST_CURVES]:
        base = next((name.removeprefix(start) for start in HELD_OUT if name.startswith(start)), name)
        words = base.replace("_", " ") + (", held-out" if base != name else "")
        beside = sorted(series[pairs[name]]) if name in pairs else ()
        drawn.append((words, charts.line_chart(sorted(series[name]), words, beside)))
    return [(name, chart) for name, chart in drawn if chart]
