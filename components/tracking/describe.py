"""An artifact in MLflow: name, parameters, inputs, figures and description of its run."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from components.artifacts import format
from components.artifacts.inventory import short
from components.contract import registry
from components.contract.api import Artifact, Row
from components.contract.commands import command
from components.contract.fingerprint import result_settings
from components.engines.ray.pool import JOB_VARIABLE
from components.tracking.pages import figures_table
from vim_core.config import PipelineConfig
from vim_core.storage import io
from vim_core.text import flatten

JOB = "VIM_JOB"
"""Set for a run that was sent to a cluster: the submission's name there."""
SETTINGS = "settings.json"
NAMED_SETTINGS, WORD_LENGTH = 4, 60
"""Settings in a run's name at most, and their length."""
BLOCK = re.compile(r"block_\d+$")
DETAIL = re.compile(rf".*_(low|high|std)$|{BLOCK.pattern}")


def job_tag() -> dict[str, str]:
    """The cluster's job that this process is part of, as a tag; empty outside of one."""
    try:
        ray_job = json.loads(os.environ.get(JOB_VARIABLE, "{}")).get("metadata", {}).get("job_submission_id", "")
    except (ValueError, AttributeError):
        ray_job = ""
    job = os.environ.get(JOB) or ray_job
    return {"vim.job": str(job)} if job else {}


def changed_settings(component: str, settings: Mapping[str, Any], version: int) -> dict[str, Any]:
    """The settings that differ from the code's defaults, and the component's version: the columns of its runs.

    All of them would be over a hundred columns, nearly all the same in every run; `settings.json` has them.
    """
    defaults = flatten(result_settings(getattr(PipelineConfig(), component)))
    changed = {name: value for name, value in flatten(settings).items() if value != defaults.get(name)}
    return {"version": version, **changed}


def title(start: str, changed: Sequence[str]) -> str:
    """A run's name: `start`, such as a preset or a component, and the settings that differ from the preset's."""
    more = [f"+{len(changed) - NAMED_SETTINGS}"] if len(changed) > NAMED_SETTINGS else []
    words = [word if len(word) <= WORD_LENGTH else f"{word[: WORD_LENGTH - 1]}…" for word in changed[:NAMED_SETTINGS]]
    return " · ".join([start, " ".join([*words, *more])]) if changed else start


def component_title(name: str, config: PipelineConfig) -> str:
    """The name of a component's run, with those of the changed settings that may change its artifact."""
    known = {name, *registry.upstream(name, config.components, config)} if name in config.components else {name}
    others = set(registry.NAMES) - known
    return title(name, [word for word in config.run.changed if word.partition(".")[0] not in others])


def main_figures(metrics: Mapping[str, float]) -> dict[str, float]:
    """Without the ends of intervals and the single blocks, which report and manifest have: MLflow's list gets too long.

    A block's accuracy is a curve of the probe's run.
    """
    return {name: value for name, value in metrics.items() if not DETAIL.match(name)}


def block_rows(artifact: Artifact) -> list[Row]:
    """The probe's accuracy as a curve over the blocks: its steps are the blocks."""
    accuracies = {name: value for name, value in artifact.manifest.metrics.items() if BLOCK.match(name)}
    made = created_ms(artifact)
    return [Row(step, made, {"final/block": accuracies[name]}) for step, name in enumerate(sorted(accuracies))]


def created_ms(artifact: Artifact) -> int:
    """The time when it was made, in Unix milliseconds: a point that is logged twice with this time is one point."""
    try:
        return int(datetime.fromisoformat(artifact.manifest.created).timestamp() * 1000)
    except ValueError:
        return 0


def component_description(artifact: Artifact) -> str:
    """The description of a component's run: the training's last line, its figures, where the artifact lies."""
    manifest = artifact.manifest
    lines = [str(manifest.properties["summary"])] if "summary" in manifest.properties else []
    figures = format.headline_text(artifact)
    lines += [figures] if figures else []
    sources = ", ".join(f"{record.component}/{short(record.fingerprint)}" for record in manifest.inputs.values())
    lines += [f"Made from {sources}."] if sources else []
    lines += [f"Artifact: {_link(artifact.folder)}"]
    return "\n\n".join(lines)


def pipeline_description(preset: str, artifacts: Mapping[str, tuple[Artifact, bool]], page: str) -> str:
    """The description of a pipeline's run: the report, then each component with figures and artifact.

    `artifacts` holds each component's artifact and whether it was reused; `page` is the report's path or URI, or ''.
    """
    lines = [f"Report: {_link(page)}", ""] if page else []
    lines += figures_table(highlights(artifact for artifact, _ in artifacts.values()))
    lines += ["| component | | figures | artifact |", "|---|---|---|---|"]
    for name, (artifact, reused) in artifacts.items():
        link = _link(artifact.folder, f"{artifact.manifest.component}/{short(artifact.manifest.fingerprint)}")
        lines.append(f"| {name} | {'reused' if reused else 'ran'} | {format.headline_text(artifact)} | {link} |")
    figures, listing = command("report", preset=preset), command("artifacts", "list", preset=preset)
    text = f"`{figures}` prints where they lie, `{listing}` lists the artifacts."
    return "\n".join([*lines, "", text])


def highlights(artifacts: Iterable[Artifact]) -> dict[str, float]:
    """The figures of a pipeline's run: headline figures of its components, without the ends of intervals."""
    return {
        f"{artifact.manifest.component}/{name}": value
        for artifact in artifacts
        for name, value in main_figures(format.headline_figures(artifact)).items()
    }


def _link(address: str, label: str = "") -> str:
    """A link where a browser can open the address, which Google's console does for buckets; else the label or path."""
    if address.startswith("gs://"):
        return f"[{label or address}](https://console.cloud.google.com/storage/browser/{address.removeprefix('gs://')})"
    if address.startswith(("http://", "https://")):
        return f"[{label or address}]({address})"
    return f"`{label or io.absolute(address)}`"
