"""An artifact in MLflow: name, parameters, inputs and description of its run, its version in the model registry."""

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
from components.contract.fingerprint import result_settings
from components.engines.ray.pool import JOB_VARIABLE
from components.tracking.link import http_status
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
KINDS = {"quantize": "tokenizer", "prior": "prior", "classify": "classifier"}
"""Components whose artifacts become versions of a registered model, and the names of these models."""
EXISTS = "RESOURCE_ALREADY_EXISTS"


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
    text = f"`vimctl report --preset {preset}` prints the figures, `vimctl artifacts show COMPONENT/…` an artifact."
    return "\n".join([*lines, "", text])


def highlights(artifacts: Iterable[Artifact]) -> dict[str, float]:
    """The figures of a pipeline's run: headline figures of its components, without the ends of intervals."""
    return {
        f"{artifact.manifest.component}/{name}": value
        for artifact in artifacts
        for name, value in main_figures(format.headline_figures(artifact)).items()
    }


def register(client: Any, preset: str, artifact: Artifact, run_ids: tuple[str, ...]) -> None:
    """Make the artifact a version of its registered model, such as vim-digits-tokenizer, unless one has its digest.

    Address, digest and lineage are recorded; nothing is uploaded.

    Args:
        client: an MlflowClient.
        run_ids: runs that may have made it, the first that the server knows becomes the version's source.
    """
    component, manifest, address = artifact.manifest.component, artifact.manifest, io.absolute(artifact.folder)
    # A name has letters, digits, dots, dashes and underscores.
    name = re.sub(r"[^\w.-]", "-", f"vim-{preset}-{KINDS[component]}", flags=re.ASCII)

    def versions() -> list[Any]:
        return list(client.search_model_versions(f"name = '{name}' and tags.`vim.digest` = '{artifact.digest}'"))

    if versions():
        return
    text = (
        f"The {KINDS[component]} of the preset {preset}. A version's tags say where it lies and what it is made from."
    )
    try:
        client.create_registered_model(name, {"vim.preset": preset, "vim.component": component}, text)
    except Exception as error:
        if getattr(error, "error_code", "") != EXISTS:
            raise
    run_id = _first_known(client, run_ids)
    # The run as the address of an artifact on a disk, because servers take no paths of other machines.
    source = f"runs:/{run_id}" if io.is_local(artifact.folder) and run_id else artifact.folder
    tags = {
        "vim.digest": artifact.digest, "vim.fingerprint": manifest.fingerprint, "vim.preset": preset,
        "vim.component": component, "vim.artifact": address,
        **{f"vim.input.{key}": record.digest for key, record in manifest.inputs.items()},
    }  # fmt: skip
    description = f"{format.headline_text(artifact) or component}; {address}"
    created = client.create_model_version(name, source, run_id or None, tags, None, description, 0)
    # Two pipelines that reuse one artifact may both have looked before either wrote.
    first = min((int(each.version) for each in versions()), default=int(created.version))
    if int(created.version) > first:
        client.delete_model_version(name, created.version)


def _first_known(client: Any, run_ids: tuple[str, ...]) -> str:
    """The first run of these that the server has, or '' for none."""
    for run_id in filter(None, run_ids):
        try:
            return str(client.get_run(run_id).info.run_id)
        except Exception as error:
            if http_status(error) != 404:
                raise
    return ""


def _link(address: str, label: str = "") -> str:
    """A link where a browser can open the address, which Google's console does for buckets; else the label or path."""
    if address.startswith("gs://"):
        return f"[{label or address}](https://console.cloud.google.com/storage/browser/{address.removeprefix('gs://')})"
    if address.startswith(("http://", "https://")):
        return f"[{label or address}]({address})"
    return f"`{label or io.absolute(address)}`"
