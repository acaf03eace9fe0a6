"""Gates on tables: every image that went in came out, or was set aside with its reason."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from components.artifacts.gates.verdict import Verdict, missing_property
from components.contract.api import Artifact, Inputs
from vim_core.config import PipelineConfig

GATE = "images_accounted_for"


def check_ingest(config: PipelineConfig, artifact: Artifact, inputs: Inputs) -> Verdict:
    """Read = training images + held-out images + dead letters, in the manifest and in the rows of its files."""
    found = artifact.properties
    lacking = [name for name in ("read", "dead_letter", "splits") if name not in found]
    if lacking:
        return missing_property(GATE, artifact, ", ".join(lacking))
    splits, rows = _numbers(found["splits"]), _rows(artifact, "images/")
    told = {"read": int(found["read"]), "dead_letter": int(found["dead_letter"])}
    accounted = sum(rows.values()) + told["dead_letter"]
    text = f"{told['read']} read, {sum(rows.values())} in the table, {told['dead_letter']} set aside"
    return _verdict(accounted == told["read"] and _nonzero(splits) == rows, text, artifact, {**told, **splits})


def check_tokenize(config: PipelineConfig, artifact: Artifact, inputs: Inputs) -> Verdict:
    """A row for every view of every training image, and one for each held-out image."""
    if "images" not in inputs or "views" not in artifact.properties or "splits" not in inputs["images"].properties:
        return missing_property(GATE, artifact, "its views or its images")
    views = int(artifact.properties["views"])
    given, rows = _numbers(inputs["images"].properties["splits"]), _rows(artifact, "codes/")
    wanted = {split: count * (views if split == "train" else 1) for split, count in given.items()}
    text = f"{rows} rows of {given} images, {views} views of a training image"
    return _verdict(rows == _nonzero(wanted), text, artifact, {f"rows_{split}": n for split, n in rows.items()})


def check_reconstruct(config: PipelineConfig, artifact: Artifact, inputs: Inputs) -> Verdict:
    """Every held-out image, up to the limit."""
    if "images" not in inputs or "splits" not in inputs["images"].properties:
        return missing_property(GATE, artifact, "its images")
    given, limit = int(inputs["images"].properties["splits"]["test"]), int(artifact.manifest.config["limit"])
    wanted = min(given, limit) if limit else given
    rows = sum(_rows(artifact, "images/").values())
    text = f"{rows} reconstructions, {wanted} of {given} held-out images were asked for"
    return _verdict(rows == wanted, text, artifact, {"rows": rows, "wanted": wanted})


def check_sample(config: PipelineConfig, artifact: Artifact, inputs: Inputs) -> Verdict:
    """As many samples as were asked for."""
    wanted, rows = int(artifact.manifest.config["count"]), sum(_rows(artifact, "images/").values())
    return _verdict(rows == wanted, f"{rows} samples of {wanted}", artifact, {"rows": rows, "wanted": wanted})


def check_select(config: PipelineConfig, artifact: Artifact, inputs: Inputs) -> Verdict:
    """As many of each class at every rate as were asked for."""
    found = artifact.properties
    if "rates" not in found or "classes" not in found:
        return missing_property(GATE, artifact, "its rates or classes")
    each = int(artifact.manifest.config["count"]) * len(found["classes"])
    rows = _rows(artifact, "images/")
    right = len(rows) == len(found["rates"]) and set(rows.values()) == {each}
    return _verdict(right, f"{rows} images, {each} at each of {len(found['rates'])} rates", artifact, rows)


def _rows(artifact: Artifact, prefix: str) -> dict[str, int]:
    """Rows by split of files such as `images/train-00001-of-00002.parquet`; splits without rows are left out."""
    counted: dict[str, int] = {}
    for entry in artifact.manifest.files:
        if entry.name.startswith(prefix):
            split = entry.name.removeprefix(prefix).rsplit("-", 3)[0]
            counted[split] = counted.get(split, 0) + (entry.rows or 0)
    return _nonzero(counted)


def _nonzero(counts: Mapping[str, int]) -> dict[str, int]:
    return {name: count for name, count in counts.items() if count}


def _numbers(given: Mapping[str, Any]) -> dict[str, int]:
    return {str(name): int(count) for name, count in given.items()}


def _verdict(passed: bool, text: str, artifact: Artifact, figures: Mapping[str, int]) -> Verdict:
    remedy = f"make it again with `vimctl run {artifact.manifest.component} --force`"
    return Verdict(GATE, passed, text, remedy, {name: float(value) for name, value in figures.items()})
