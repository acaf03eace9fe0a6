"""Name, parameters, input datasets and description of an MLflow run."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from components.artifacts import format, store
from components.artifacts.inventory import short
from components.contract.api import Artifact
from components.contract.fingerprint import result_settings
from vim_core.config import PipelineConfig
from vim_core.storage import io

JOB = "VIM_JOB"
"""Set for a run that was sent to a cluster: the submission's name there."""
RAY_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Set by Ray for processes that its Jobs API starts."""
SETTINGS = "settings.json"
DATASET_DIGEST_LENGTH = 36
"""MLflow's limit; the whole digest is in the dataset's profile."""


def run_name(preset: str, fingerprint: str) -> str:
    """A pipeline run's name: runs of one preset with different settings can be told apart."""
    return f"{preset} {short(fingerprint)}"


def job_tag() -> dict[str, str]:
    """The cluster's job that this process is part of, as a tag; empty outside of one."""
    try:
        ray_job = json.loads(os.environ.get(RAY_JOB, "{}")).get("metadata", {}).get("job_submission_id", "")
    except (ValueError, AttributeError):
        ray_job = ""
    job = os.environ.get(JOB) or ray_job
    return {"vim.job": str(job)} if job else {}


def changed_settings(component: str, settings: Mapping[str, Any], version: int) -> dict[str, Any]:
    """The settings that differ from the code's defaults, and the component's version: the columns of its runs.

    All of them would be over a hundred columns, nearly all the same in every run; `settings.json` has them.
    """

    def differing(settings: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
        changed: dict[str, Any] = {}
        for name, value in settings.items():
            default = defaults.get(name)
            if isinstance(value, Mapping) and isinstance(default, Mapping):
                inner = differing(value, default)
                changed |= {name: inner} if inner else {}
            elif value != default:
                changed[name] = value
        return changed

    return {"version": version, **differing(settings, result_settings(getattr(PipelineConfig(), component)))}


def datasets(root: str, artifact: Artifact) -> list[dict[str, str]]:
    """Name, digest, source and profile of every input of `artifact`, with its name as an input of the component."""
    return [
        {
            "context": key,
            "name": record.component,
            "digest": record.digest[:DATASET_DIGEST_LENGTH],
            "source": json.dumps({"uri": store.folder(root, record.component, record.fingerprint)}),
            "profile": json.dumps({"digest": record.digest, "fingerprint": record.fingerprint}),
        }
        for key, record in sorted(artifact.manifest.inputs.items())
    ]


def created_ms(artifact: Artifact) -> int:
    """The time when it was made, in Unix milliseconds: a point that is logged twice with this time is one point."""
    try:
        return int(datetime.fromisoformat(artifact.manifest.created).timestamp() * 1000)
    except ValueError:
        return 0


def highlights(artifact: Artifact) -> dict[str, float]:
    """An artifact's headline figures as columns of the pipeline's run, such as `quantize/test_psnr_db`."""
    return {f"{artifact.manifest.component}/{key}": value for key, value in format.headline_figures(artifact).items()}


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
    lines += ["| component | | figures | artifact |", "|---|---|---|---|"]
    for name, (artifact, reused) in artifacts.items():
        link = _link(artifact.folder, f"{artifact.manifest.component}/{short(artifact.manifest.fingerprint)}")
        lines.append(f"| {name} | {'reused' if reused else 'ran'} | {format.headline_text(artifact)} | {link} |")
    text = f"`vimctl report --preset {preset}` prints the figures, `vimctl artifacts show COMPONENT/…` an artifact."
    return "\n".join([*lines, "", text])


def _link(address: str, label: str = "") -> str:
    """A link where a browser can open the address, which Google's console does for buckets; else the label or path."""
    if address.startswith("gs://"):
        return f"[{label or address}](https://console.cloud.google.com/storage/browser/{address.removeprefix('gs://')})"
    if address.startswith(("http://", "https://")):
        return f"[{label or address}]({address})"
    return f"`{label or io.absolute(address)}`"
