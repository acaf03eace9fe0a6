"""What Dagster shows of an artifact and of a run: figures, pictures, places, tags."""

from __future__ import annotations

import base64
import os
import re
from typing import Any

import dagster as dg

from components.artifacts.execute import Result
from components.artifacts.headlines import HEADLINES
from components.contract.api import Artifact
from components.tracking.owner import commit_tag, owner_tags
from components.tracking.tracker import config_fingerprint
from pipelines.orchestration.session import MLFLOW_URL, Session, mlflow_page
from vim_core.config import PipelineConfig
from vim_core.storage import io

INLINE_BYTES = 300_000
"""Larger pictures are named by their place: each event is kept in Dagster's database."""


def of_result(result: Result, current: Session) -> dict[str, Any]:
    """Metadata of a materialization: headline figures first, then pictures, links and the rest of the manifest."""
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
    """The newest picture of each kind, inline where it is small."""
    newest: dict[str, Any] = {}
    for entry in sorted(artifact.manifest.files, key=lambda each: each.name):
        if entry.name.endswith(".png"):
            kind = re.sub(r"-\d+$", "", entry.name.removesuffix(".png").removeprefix("pictures/"))
            newest[f"picture/{kind}"] = entry
    return {key: _picture(artifact.uri(entry.name), key, entry.bytes) for key, entry in newest.items()}


def mlflow_url(current: Session, run_id: str) -> str:
    """The page of an MLflow run, or '' where no server is known that shows it."""
    server = os.environ.get(MLFLOW_URL) or current.tracking.uri
    return mlflow_page(server, current.tracking.experiment_id, run_id)


def run_tags(config: PipelineConfig) -> dict[str, str]:
    """Tags of a Dagster run: what was asked, of which code, and whose process does it."""
    tags = {"vim/preset": config.preset, "vim/fingerprint": config_fingerprint(config)}
    commit = next(iter(commit_tag().values()), "")
    tags |= {"vim/commit": commit} if commit else {}
    return tags | {name.replace("vim.", "vim/", 1): value for name, value in owner_tags().items()}


def _picture(uri: str, name: str, size: int) -> Any:
    if size > INLINE_BYTES:
        return dg.MetadataValue.path(uri)
    data = base64.b64encode(io.read_bytes(uri)).decode()
    return dg.MetadataValue.md(f"![{name}](data:image/png;base64,{data})")
