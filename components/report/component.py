"""The page and the record of a pipeline's results; `publish` adds a run's own data and writes the published copies."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from components.artifacts.learning import remarks
from components.contract import registry
from components.contract.api import Artifact, Context, Inputs, Outcome
from components.report import grids, page, sections
from components.report.metrics import BOUNDS, METRICS, Metric, interval, unlisted
from vim_core.config import ReportConfig
from vim_core.storage import io

VERSION = 3
INPUTS = {name: f"{name}?" for name in registry.NAMES[: registry.NAMES.index("report")]}

COMPUTE = ("device", "dtype", "threads", "world")
PER_BLOCK = ("accuracy_per_block", "ridge_accuracy_per_block")
JSON_FILES = {"tradeoff": ("tradeoff", "tradeoff.json"), "neighbours": ("score", "neighbours.json")}
"""Files that become a part of the record: key in `results.json`, component, file of its artifact."""


def run(config: ReportConfig, inputs: Inputs, ctx: Context) -> Outcome:
    """Write `report.html` and `results.json` for the components that the preset has."""
    ctx.progress.start(2, "file")
    record = collect(ctx.pipeline.preset, inputs)
    record["remarks"] = remarks(ctx.pipeline, inputs)
    io.write_bytes(ctx.path("results.json"), _json(record))
    ctx.progress.advance(1)
    html = page.render(config.title, record, inputs, _content(config, record, inputs))
    io.write_bytes(ctx.path("report.html"), html.encode())
    ctx.progress.advance(2)
    return Outcome()


def publish(artifact: Artifact, record: Mapping[str, Any], folder: str) -> str:
    """Write `report.html` and `results.json` into `folder`, with the data of one run; returns the page's address.

    `record` has `preset`, by component `seconds` (float) and `reused` (bool), and `mlflow` with any of
    `tracking_uri`, `experiment`, `run_id` and `url`. Without `preset`, the one that made the artifact is named.
    """
    figures = stamp(json.loads(io.read_bytes(artifact.uri("results.json"))), record)
    place = io.absolute(folder)
    html = page.stamped(io.read_bytes(artifact.uri("report.html")).decode(), figures, place)
    io.write_bytes(io.join(folder, "results.json"), _json(figures))
    target = io.join(folder, "report.html")
    io.write_bytes(target, html.encode())
    return target


def _json(record: Mapping[str, Any]) -> bytes:
    return (json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _content(config: ReportConfig, record: Mapping[str, Any], inputs: Inputs) -> dict[str, Any]:
    """Values of the page's template that are made of artifacts' files, such as pictures; None for what there is not."""
    content: dict[str, Any] = dict.fromkeys(("samples", "reconstructions", "accepted", "neighbours"))
    if "sample" in inputs:
        samples = inputs["sample"]
        classes, count = samples.properties["classes"], config.samples_per_class
        content["samples"] = grids.samples_by_class(samples, classes, count, config.max_classes)
    if "ingest" in inputs and "reconstruct" in inputs:
        measured = read_file(inputs, "score", "reconstructions.parquet")
        psnr = grids.psnr_by_key(measured) if measured is not None else {}
        content["reconstructions"] = grids.reconstructions(
            inputs["ingest"], inputs["reconstruct"], psnr, config.reconstructions
        )
    if "select" in inputs:
        content["accepted"] = sections.accepted_samples(inputs["select"], config.max_classes)
    if "neighbours" in record:
        data = read_file(inputs, "score", "pictures/neighbours.png")
        alt = "Pairs of a sample and the training image nearest to it"
        picture = grids.embedded(data, alt) if data is not None else None
        content["neighbours"] = sections.neighbours(record["neighbours"], picture)
    curves = {name: read_file(inputs, name, "curves.jsonl") for name in page.TRAINED}
    drawn = {name: page.training_charts(lines) for name, lines in curves.items() if lines is not None}
    return content | {"curves": {name: charts for name, charts in drawn.items() if charts}}


def collect(preset: str, artifacts: Mapping[str, Artifact]) -> dict[str, Any]:
    """The record for a preset's artifacts by component; a component that is not among them leaves no metric.

    A metric's interval stands beside it as `<name>_low` and `<name>_high`. `seconds` is the time each artifact took to
    make; `reused` is empty until `stamp` adds a run's data; `compute` keeps the device and time of making them.
    """
    results: dict[str, Any] = {"preset": preset}
    protocols: dict[str, Any] = {}
    for metric in (*METRICS, *_unlisted(artifacts)):
        manifest = artifacts[metric.component].manifest if metric.component in artifacts else None
        source = metric.source or metric.name
        if manifest is None or source not in manifest.metrics:
            continue
        value = manifest.metrics[source]
        group = results.setdefault(metric.group, {})
        group[metric.name] = int(value) if metric.style == "count" else value
        group |= {metric.name + end: bound for end, bound in interval(manifest.metrics, source).items()}
        if source in manifest.protocols:
            protocols[metric.key] = manifest.protocols[source]
    if "probe" in artifacts:
        properties = artifacts["probe"].properties
        per_block = {name: list(properties[name]) for name in PER_BLOCK if name in properties}
        results["probe"] = results.get("probe", {}) | per_block
    for key, (component, name) in JSON_FILES.items():
        content = read_file(artifacts, component, name)
        if content is not None:
            results[key] = json.loads(content)
    results |= _circumstances(artifacts)
    results["seconds"] = {name: artifact.manifest.seconds for name, artifact in sorted(artifacts.items())}
    results["reused"] = {}
    results["protocols"] = protocols
    results["artifacts"] = {
        name: {"fingerprint": a.manifest.fingerprint, "digest": a.digest, "folder": "/".join(a.manifest.key)}
        for name, a in sorted(artifacts.items())
    }
    results["mlflow"] = {}
    return results


def stamp(results: Mapping[str, Any], record: Mapping[str, Any]) -> dict[str, Any]:
    """Add one run's data to the record: `preset`, `seconds` and `reused` by component, `mlflow` (address, run id)."""
    run = {key: dict(record.get(key, {})) for key in ("seconds", "reused", "mlflow")}
    return {**results, "preset": record.get("preset", results["preset"]), **run}


def read_file(artifacts: Mapping[str, Artifact], component: str, name: str) -> bytes | None:
    """A file of a component's artifact, or None where the component or the file is absent."""
    if component not in artifacts or all(entry.name != name for entry in artifacts[component].manifest.files):
        return None
    return io.read_bytes(artifacts[component].uri(name))


def _unlisted(artifacts: Mapping[str, Artifact]) -> list[Metric]:
    """Metrics of `score` that `METRICS` does not list: every one that comes with a protocol."""
    if "score" not in artifacts:
        return []
    manifest = artifacts["score"].manifest
    listed = {metric.source or metric.name for metric in METRICS if metric.component == "score"}
    names = [name for name in manifest.metrics if name in manifest.protocols and name not in listed]
    return [unlisted(name, manifest.protocols[name]) for name in names if not name.endswith((*BOUNDS, "_std"))]


def _circumstances(artifacts: Mapping[str, Artifact]) -> dict[str, Any]:
    """Return the settings and compute of every component, the images, the tokenizer."""
    record: dict[str, Any] = {"settings": {}, "compute": {}}
    for name, artifact in sorted(artifacts.items()):
        manifest = artifact.manifest
        record["settings"][name] = manifest.config
        numeric = {key: manifest.numeric[key] for key in COMPUTE if key in manifest.numeric}
        record["compute"][name] = {"seconds": manifest.seconds, **numeric}
    if "ingest" in artifacts:
        manifest = artifacts["ingest"].manifest
        sizes = {key: manifest.properties[key] for key in ("splits", "image_size") if key in manifest.properties}
        source = str(manifest.config.get("source", ""))
        classes = len(manifest.properties.get("classes", []))
        record["data"] = {"digest": manifest.digest, "source": source, "classes": classes, **sizes}
    if "quantize" in artifacts:
        properties = artifacts["quantize"].properties
        keys = ("grid", "image_size", "vocabulary", "perceptual")
        record["tokenizer"] = {key: properties[key] for key in keys if key in properties}
    return record
