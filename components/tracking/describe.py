"""What MLflow shows of a run in words: its name, which settings are columns, and its description."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from components.artifacts import headlines
from components.artifacts.resolve import short
from components.contract.api import Artifact
from components.contract.fingerprint import settings_of
from vim_core.config import PipelineConfig
from vim_core.storage import io

JOB = "VIM_JOB"
"""Set for a run that was sent to a cluster: the submission's name there."""
RAY_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Set by Ray for what its Jobs API starts."""
SETTINGS = "settings.json"


def run_name(preset: str, fingerprint: str) -> str:
    """A pipeline run's name: runs of one preset with different settings can be told apart."""
    return f"{preset} {short(fingerprint)}"


def job_tag() -> dict[str, str]:
    """The cluster's job that this process is part of, as a tag; empty outside of one."""
    try:
        of_ray = json.loads(os.environ.get(RAY_JOB, "{}")).get("metadata", {}).get("job_submission_id", "")
    except (ValueError, AttributeError):
        of_ray = ""
    named = os.environ.get(JOB) or of_ray
    return {"vim.job": str(named)} if named else {}


def chosen(component: str, settings: Mapping[str, Any], version: int) -> dict[str, Any]:
    """The settings that differ from the code's defaults, and the component's version: the columns of its runs.

    All of them would be over a hundred columns, nearly all the same in every run; the whole lies in `settings.json`.
    """
    usual = settings_of(getattr(PipelineConfig(), component))
    return {"version": version, **_differing(settings, usual)}


def _differing(settings: Mapping[str, Any], usual: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in settings.items():
        other = usual.get(name)
        if isinstance(value, Mapping) and isinstance(other, Mapping):
            inner = _differing(value, other)
            found |= {name: inner} if inner else {}
        elif value != other:
            found[name] = value
    return found


def created_ms(artifact: Artifact) -> int:
    """When it was made; a point told twice with this time is one point."""
    try:
        return int(datetime.fromisoformat(artifact.manifest.created).timestamp() * 1000)
    except ValueError:
        return 0


def highlights(artifact: Artifact) -> dict[str, float]:
    """An artifact's headline figures as columns of the pipeline's run, such as `quantize/test_psnr_db`."""
    return {f"{artifact.manifest.component}/{key}": value for key, value in headlines.of(artifact).items()}


def of_component(artifact: Artifact) -> str:
    """The description of a component's run: the training's last line, its figures, where the artifact lies."""
    manifest = artifact.manifest
    lines = [str(manifest.properties["summary"])] if "summary" in manifest.properties else []
    figures = ", ".join(f"{key} {value:.5g}" for key, value in headlines.of(artifact).items())
    lines += [figures] if figures else []
    made_from = ", ".join(f"{record.component}/{short(record.fingerprint)}" for record in manifest.inputs.values())
    lines += [f"Made from {made_from}."] if made_from else []
    lines += [f"Artifact: {_link(artifact.folder)}"]
    return "\n\n".join(lines)


def of_pipeline(preset: str, made: Mapping[str, tuple[Artifact, bool]], page: str) -> str:
    """The description of a pipeline's run: the report, then each component with figures and artifact."""
    lines = [f"Report: {_link(page)}", ""] if page else []
    lines += ["| component | | figures | artifact |", "|---|---|---|---|"]
    for name, (artifact, reused) in made.items():
        figures = ", ".join(f"{key} {value:.5g}" for key, value in headlines.of(artifact).items())
        how = "reused" if reused else "ran"
        lines.append(f"| {name} | {how} | {figures} | {_link(artifact.folder, _word(artifact))} |")
    text = f"`vimctl report --preset {preset}` prints the figures, `vimctl artifacts show COMPONENT/…` an artifact."
    return "\n".join([*lines, "", text])


def _word(artifact: Artifact) -> str:
    """An artifact as `vimctl artifacts show` takes it."""
    return f"{artifact.manifest.component}/{short(artifact.manifest.fingerprint)}"


def _link(place: str, word: str = "") -> str:
    """An address as a link where a browser can open it, which Google's console does for buckets; else the word."""
    if place.startswith("gs://"):
        return f"[{word or place}](https://console.cloud.google.com/storage/browser/{place.removeprefix('gs://')})"
    if place.startswith(("http://", "https://")):
        return f"[{word or place}]({place})"
    whole = io.absolute(place)
    return f"`{word or whole}`"
