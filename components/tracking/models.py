"""Trained networks in MLflow's model registry: address, digest and lineage of an artifact; nothing is uploaded."""

from __future__ import annotations

import re
from typing import Any

from components.artifacts import format
from components.contract.api import Artifact
from vim_core.storage import io

KINDS = {"quantize": "tokenizer", "prior": "prior", "classify": "classifier"}
"""Components whose artifacts become versions of a registered model, and the names of these models."""
EXISTS = "RESOURCE_ALREADY_EXISTS"


def model_name(preset: str, component: str) -> str:
    """The registered model's name, such as vim-digits-tokenizer: letters, digits, dots, dashes and underscores."""
    return re.sub(r"[^\w.-]", "-", f"vim-{preset}-{KINDS[component]}", flags=re.ASCII)


def register(client: Any, preset: str, artifact: Artifact, run_ids: tuple[str, ...]) -> None:
    """Make the artifact a version of its model, unless one has its digest.

    Args:
        client: an MlflowClient.
        run_ids: runs that may have made it, the first that the server knows becomes the version's source.
    """
    component = artifact.manifest.component
    name = model_name(preset, component)
    if _versions(client, name, artifact):
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
    created = client.create_model_version(
        name, source, run_id or None, tags(preset, artifact), None, description(artifact), 0
    )
    # Two pipelines that reuse one artifact may both have looked before either wrote.
    first = min((int(each.version) for each in _versions(client, name, artifact)), default=int(created.version))
    if int(created.version) > first:
        client.delete_model_version(name, created.version)


def tags(preset: str, artifact: Artifact) -> dict[str, str]:
    """Tags that identify a version and its inputs."""
    manifest = artifact.manifest
    inputs = {f"vim.input.{key}": record.digest for key, record in manifest.inputs.items()}
    return {
        "vim.digest": artifact.digest,
        "vim.fingerprint": manifest.fingerprint,
        "vim.preset": preset,
        "vim.component": manifest.component,
        "vim.artifact": io.absolute(artifact.folder),
        **inputs,
    }


def description(artifact: Artifact) -> str:
    """Headline figures and the address, for people."""
    return f"{format.headline_text(artifact) or artifact.manifest.component}; {io.absolute(artifact.folder)}"


def _versions(client: Any, name: str, artifact: Artifact) -> list[Any]:
    return list(client.search_model_versions(f"name = '{name}' and tags.`vim.digest` = '{artifact.digest}'"))


def _first_known(client: Any, run_ids: tuple[str, ...]) -> str:
    """The first run of these that the server has, or '' for none."""
    for run_id in filter(None, run_ids):
        try:
            return str(client.get_run(run_id).info.run_id)
        except Exception as error:
            status = getattr(error, "get_http_status_code", None)
            if not callable(status) or status() != 404:
                raise
    return ""
