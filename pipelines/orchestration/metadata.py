"""Metadata of Dagster's materializations (metrics, pictures, links) and tags of its runs."""

from __future__ import annotations

import base64
import os
import re
from typing import Any

import dagster as dg

from components.artifacts.execute import Result
from components.artifacts.format import HEADLINES
from components.contract.api import Artifact
from components.tracking.link import run_page
from components.tracking.owner import commit_tag, owner_tags
from components.tracking.tracker import config_fingerprint
from pipelines.orchestration.session import MLFLOW_URL, Session
from vim_core.config import PipelineConfig
from vim_core.storage import io

INLINE_BYTES = 300_000
"""Larger pictures are given by their address: each event is stored in Dagster's database."""


def materialization(result: Result, current: Session) -> dict[str, Any]:
    """Metadata of an asset: headline metrics first, then pictures, links and the rest of the manifest."""
    artifact = result.artifact
    manifest = artifact.manifest
    headlines = [name for name in HEADLINES.get(manifest.component, ()) if name in manifest.metrics]
    others = sorted(set(manifest.metrics) - set(headlines))
    link = mlflow_url(current, manifest.mlflow_run_id)
    report = current.page if manifest.component == "report" else ""
    return {
        **{f"metric/{name}": float(manifest.metrics[name]) for name in headlines},
        **pictures(artifact),
        **({"mlflow": dg.MetadataValue.url(link)} if link else {}),
        **({"report": dg.MetadataValue.path(report)} if report else {}),
        "reused": result.reused,
        "seconds": round(result.seconds, 2),
        "fingerprint": manifest.fingerprint,
        "digest": manifest.digest,
        "folder": dg.MetadataValue.path(artifact.folder),
        "mlflow_run_id": manifest.mlflow_run_id,
        "rows": dg.MetadataValue.json({entry.name: entry.rows for entry in manifest.files if entry.rows is not None}),
        **{f"metric/{name}": float(manifest.metrics[name]) for name in others},
    }


def pictures(artifact: Artifact) -> dict[str, Any]:
    """The newest picture of each kind, inline where it is small, else its address."""
    newest = {}
    for entry in sorted(artifact.manifest.files, key=lambda file: file.name):
        if entry.name.endswith(".png"):
            kind = re.sub(r"-\d+$", "", entry.name.removesuffix(".png").removeprefix("pictures/"))
            newest[f"picture/{kind}"] = entry
    values: dict[str, Any] = {}
    for key, entry in newest.items():
        uri = artifact.uri(entry.name)
        if entry.bytes > INLINE_BYTES:
            values[key] = dg.MetadataValue.path(uri)
        else:
            data = base64.b64encode(io.read_bytes(uri)).decode()
            values[key] = dg.MetadataValue.md(f"![{key}](data:image/png;base64,{data})")
    return values


def mlflow_url(current: Session, run_id: str) -> str:
    """The page of an MLflow run, or '' if no known server shows it."""
    server = os.environ.get(MLFLOW_URL) or current.tracking.uri
    return run_page(server, current.tracking.experiment_id, run_id)


def run_tags(config: PipelineConfig) -> dict[str, str]:
    """Tags of a Dagster run: preset, fingerprint of its settings, commit, and the process that executes it."""
    tags = {"vim/preset": config.preset, "vim/fingerprint": config_fingerprint(config)}
    commit = next(iter(commit_tag().values()), "")
    tags |= {"vim/commit": commit} if commit else {}
    return tags | {name.replace("vim.", "vim/", 1): value for name, value in owner_tags().items()}
