"""The page and the record of a pipeline's results; `publish` adds a run's own data and writes the published copies."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from components.contract import registry
from components.contract.api import Artifact, Context, Inputs, Outcome
from components.report import page, results, sections
from vim_core.config import ReportConfig
from vim_core.storage import io

VERSION = 2
INPUTS = {name: f"{name}?" for name in registry.NAMES[: registry.NAMES.index("report")]}


def run(config: ReportConfig, inputs: Inputs, ctx: Context) -> Outcome:
    """Write `report.html` and `results.json` for the components that the preset has."""
    ctx.progress.start(2, "file")
    record = results.collect(ctx.pipeline.preset, inputs)
    io.write_bytes(ctx.path("results.json"), _json(record))
    ctx.progress.advance(1)
    io.write_bytes(ctx.path("report.html"), page.render(_page(config, record, inputs)).encode())
    ctx.progress.advance(2)
    return Outcome()


def publish(artifact: Artifact, record: Mapping[str, Any], folder: str) -> str:
    """Write `report.html` and `results.json` into `folder`, with the data of one run; returns the page's address.

    `record` has `preset`, by component `seconds` (float) and `reused` (bool), and `mlflow` with any of
    `tracking_uri`, `experiment`, `run_id` and `url`. Without `preset`, the one that made the artifact is named.
    """
    figures = results.stamp(json.loads(io.read_bytes(artifact.uri("results.json"))), record)
    place = io.absolute(folder)
    html = page.stamped(io.read_bytes(artifact.uri("report.html")).decode(), figures, place)
    io.write_bytes(io.join(folder, "results.json"), _json(figures))
    target = io.join(folder, "report.html")
    io.write_bytes(target, html.encode())
    return target


def _json(record: Mapping[str, Any]) -> bytes:
    return (json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _page(config: ReportConfig, record: Mapping[str, Any], inputs: Inputs) -> page.Page:
    """The page's content, with pictures of the artifacts that exist."""
    from components.report import grids

    content = page.Page(config.title, record, inputs)
    if "sample" in inputs:
        classes = inputs["sample"].properties["classes"]
        content.samples = grids.samples_by_class(
            inputs["sample"], classes, config.samples_per_class, config.max_classes
        )
    if "ingest" in inputs and "reconstruct" in inputs:
        psnr = grids.psnr_by_key(inputs["score"]) if "score" in inputs else {}
        content.reconstructions = grids.reconstructions(
            inputs["ingest"], inputs["reconstruct"], psnr, config.reconstructions
        )
    if "select" in inputs:
        content.accepted = sections.accepted_samples(inputs["select"], config.max_classes)
    if "neighbours" in record:
        data = results.read_file(inputs, "score", "pictures/neighbours.png")
        alt = "Pairs of a sample and the training image nearest to it"
        picture = grids.embedded(data, alt) if data is not None else None
        content.neighbours = sections.neighbours(record["neighbours"], picture)
    for name in page.TRAINED:
        lines = results.read_file(inputs, name, "curves.jsonl")
        if lines is not None and (charts := page.training_charts(lines)):
            content.curves[name] = charts
    return content
