"""Gates on tables: every image that went in came out, or was set aside with its reason."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from components.artifacts.gates.verdict import Verdict, missing_property, remake
from components.contract.api import Artifact, Inputs
from vim_core.config import PipelineConfig

GATE = "images_accounted_for"


def check_ingest(config: PipelineConfig, artifact: Artifact, inputs: Inputs) -> Verdict:
    """Read = training images + held-out images + dead letters, in the manifest and in the rows of its files."""
    properties = artifact.properties
    lacking = [name for name in ("read", "dead_letter", "splits") if name not in properties]
    if lacking:
        return missing_property(GATE, artifact, ", ".join(lacking))
    splits, rows = _integers(properties["splits"]), _rows(artifact, "images/")
    read, dead, written = int(properties["read"]), int(properties["dead_letter"]), sum(rows.values())
    text = f"{read} read, {written} in the table, {dead} set aside"
    passed = written + dead == read and _nonzero(splits) == rows
    return _verdict(passed, text, artifact, {"read": read, "dead_letter": dead, **splits})


def check_tokenize(config: PipelineConfig, artifact: Artifact, inputs: Inputs) -> Verdict:
    """A row for every view of every training image, and one for each held-out image."""
    if "images" not in inputs or "views" not in artifact.properties or "splits" not in inputs["images"].properties:
        return missing_property(GATE, artifact, "its views or its images")
    views = int(artifact.properties["views"])
    images, rows = _integers(inputs["images"].properties["splits"]), _rows(artifact, "codes/")
    expected = {split: count * (views if split == "train" else 1) for split, count in images.items()}
    text = f"{rows} rows of {images} images, {views} views of a training image"
    return _verdict(rows == _nonzero(expected), text, artifact, {f"rows_{split}": n for split, n in rows.items()})


def check_reconstruct(config: PipelineConfig, artifact: Artifact, inputs: Inputs) -> Verdict:
    """Every held-out image, up to the limit."""
    if "images" not in inputs or "splits" not in inputs["images"].properties:
        return missing_property(GATE, artifact, "its images")
    images, limit = int(inputs["images"].properties["splits"]["test"]), int(artifact.manifest.config["limit"])
    expected = min(images, limit) if limit else images
    rows = sum(_rows(artifact, "images/").values())
    text = f"{rows} reconstructions, {expected} of {images} held-out images were requested"
    return _verdict(rows == expected, text, artifact, {"rows": rows, "wanted": expected})


def check_sample(config: PipelineConfig, artifact: Artifact, inputs: Inputs) -> Verdict:
    """As many samples as were requested."""
    expected, rows = int(artifact.manifest.config["count"]), sum(_rows(artifact, "images/").values())
    return _verdict(rows == expected, f"{rows} samples of {expected}", artifact, {"rows": rows, "wanted": expected})


def check_select(config: PipelineConfig, artifact: Artifact, inputs: Inputs) -> Verdict:
    """As many of each class at every rate as were requested."""
    properties = artifact.properties
    if "rates" not in properties or "classes" not in properties:
        return missing_property(GATE, artifact, "its rates or classes")
    expected, rates = int(artifact.manifest.config["count"]) * len(properties["classes"]), len(properties["rates"])
    rows = _rows(artifact, "images/")
    passed = len(rows) == rates and set(rows.values()) == {expected}
    return _verdict(passed, f"{rows} images, {expected} at each of {rates} rates", artifact, rows)


def _rows(artifact: Artifact, prefix: str) -> dict[str, int]:
    """Rows by split of files such as `images/train-00001-of-00002.parquet`; splits without rows are left out."""
    rows: dict[str, int] = {}
    for entry in artifact.manifest.files:
        if entry.name.startswith(prefix):
            split = entry.name.removeprefix(prefix).rsplit("-", 3)[0]
            rows[split] = rows.get(split, 0) + (entry.rows or 0)
    return _nonzero(rows)


def _nonzero(counts: Mapping[str, int]) -> dict[str, int]:
    return {name: count for name, count in counts.items() if count}


def _integers(counts: Mapping[str, Any]) -> dict[str, int]:
    return {str(name): int(count) for name, count in counts.items()}


def _verdict(passed: bool, text: str, artifact: Artifact, figures: Mapping[str, int]) -> Verdict:
    return Verdict(GATE, passed, text, remake(artifact), {name: float(value) for name, value in figures.items()})
