"""Artifacts as versions of registered models, with a signature and the address of the weights."""

from __future__ import annotations

import json
import re
from typing import Any

from components.artifacts import format
from components.contract.api import Artifact
from components.tracking.link import http_status
from vim_core.storage import io

KINDS = {"quantize": "tokenizer", "prior": "prior", "classify": "classifier"}
"""Components whose artifacts become versions of a registered model, and the names of these models."""
LOADERS = {"quantize": "Tokenizer", "prior": "Prior"}
"""Their classes in `vim_core.pretrained`."""
EXISTS = "RESOURCE_ALREADY_EXISTS"
MODEL_FOLDER = "model"
"""Folder of a run's files with what MLflow knows of its model."""


def register(client: Any, preset: str, artifact: Artifact, run_ids: tuple[str, ...]) -> None:
    """Make the artifact a version of its registered model, such as vim-digits-tokenizer, unless one has its digest.

    Address, digest, lineage and signature are recorded; the weights stay where they are, and
    `Tokenizer.from_pretrained("models:/vim-digits-tokenizer/1")` reads them there.

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
    text = f"The {KINDS[component]} of the preset {preset}. Tags of a version: where it lies, what it is made from."
    if component in LOADERS:
        text += f' Load it with `{LOADERS[component]}.from_pretrained("models:/{name}/VERSION")`.'
    try:
        client.create_registered_model(name, {"vim.preset": preset, "vim.component": component}, text)
    except Exception as error:
        if getattr(error, "error_code", "") != EXISTS:
            raise
    run_id = _first_known(client, run_ids)
    source = artifact.folder
    if run_id:
        # Not the artifact's folder: servers take no paths of other machines, and MLflow reads the signature here.
        source = f"runs:/{run_id}/{MODEL_FOLDER}"
        client.log_text(run_id, model_file(artifact, run_id), f"{MODEL_FOLDER}/MLmodel")
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


def model_file(artifact: Artifact, run_id: str) -> str:
    """MLflow's `MLmodel`: signature, address and loader of a model, as YAML."""
    import yaml

    manifest = artifact.manifest
    loader = LOADERS.get(manifest.component, "")
    flavor = {"artifact": io.absolute(artifact.folder), "digest": artifact.digest}
    inputs, outputs = signature(artifact)
    record = {
        "artifact_path": MODEL_FOLDER,
        "run_id": run_id,
        "utc_time_created": manifest.created[:19].replace("T", " "),
        "flavors": {"vim": flavor | ({"loader": f"vim_core.pretrained.{loader}.from_pretrained"} if loader else {})},
        "signature": {"inputs": json.dumps([inputs]), "outputs": json.dumps([outputs])},
    }
    return yaml.safe_dump(record, sort_keys=False)


def signature(artifact: Artifact) -> tuple[dict[str, Any], dict[str, Any]]:
    """Input and output of a model in MLflow's form; sides that its artifact does not tell are -1, as the batch is."""
    about = artifact.manifest.properties
    side = int(about.get("image_size") or artifact.manifest.config.get("image_size") or -1)
    rows, columns = about.get("grid", (-1, 1))
    images = _tensor("images", "float32", -1, 3, side, side)
    codes = _tensor("codes", "int64", -1, rows * columns)
    match artifact.manifest.component:
        case "quantize":
            return images, codes
        case "prior":
            return _tensor("labels", "int64", -1), codes
        case _:
            return images, _tensor("logits", "float32", -1, len(about.get("classes", ())) or -1)


def _tensor(name: str, dtype: str, *shape: int) -> dict[str, Any]:
    return {"name": name, "type": "tensor", "tensor-spec": {"dtype": dtype, "shape": list(shape)}}
