"""One page and one record of what the pipeline made; `publish` adds what a run did and puts copies in place."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from components.contract import registry
from components.contract.api import Artifact, Context, Inputs, Outcome
from components.report import accepted, neighbours, page, results
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
    content = page.Page(
        title=config.title,
        results=record,
        artifacts=inputs,
        samples=_samples(config, inputs),
        reconstructions=_reconstructions(config, inputs),
        accepted=accepted.accepted(inputs["select"], config.max_classes) if "select" in inputs else None,
        neighbours=_neighbours(record, inputs),
        curves=_curves(inputs),
    )
    io.write_bytes(ctx.path("report.html"), page.render(content).encode())
    ctx.progress.advance(2)
    return Outcome()


def publish(artifact: Artifact, record: Mapping[str, Any], folder: str) -> str:
    """Write `report.html` and `results.json` into `folder`, stamped with what one run did, and give the page's place.

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


def _samples(config: ReportConfig, inputs: Inputs) -> list[Any]:
    from components.report import grids

    if "sample" not in inputs:
        return []
    classes = inputs["sample"].properties["classes"]
    return grids.samples_by_class(inputs["sample"], classes, config.samples_per_class, config.max_classes)


def _reconstructions(config: ReportConfig, inputs: Inputs) -> list[Any]:
    from components.report import grids

    if "ingest" not in inputs or "reconstruct" not in inputs:
        return []
    psnr = grids.psnr_by_key(inputs["score"]) if "score" in inputs else {}
    return grids.reconstructions(inputs["ingest"], inputs["reconstruct"], psnr, config.reconstructions)


def _neighbours(record: Mapping[str, Any], inputs: Inputs) -> neighbours.Neighbours | None:
    """The memorisation section, where `score` made that check."""
    from components.report import grids

    if "neighbours" not in record:
        return None
    data = results.attached(inputs, "score", "pictures/neighbours.png")
    alt = "Pairs of a sample and the training image nearest to it"
    return neighbours.section(record["neighbours"], grids.embedded(data, alt) if data is not None else None)


def _curves(inputs: Inputs) -> dict[str, list[tuple[str, str]]]:
    """Charts of each training component that kept its curves."""
    found = {}
    for name in page.CURVES:
        if name in inputs and any(entry.name == "curves.jsonl" for entry in inputs[name].manifest.files):
            found[name] = page.curves_of(io.read_bytes(inputs[name].uri("curves.jsonl")))
    return {name: charts for name, charts in found.items() if charts}
