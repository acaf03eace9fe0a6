"""Where Dagster keeps its history: a home below the artifact root, with telemetry off."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from vim_core import io
from vim_core.config import PipelineConfig
from vim_core.errors import ConfigError, StorageError

if TYPE_CHECKING:
    from dagster import DagsterInstance

SETTINGS = "telemetry:\n  enabled: false\nnux:\n  enabled: false\n"
QUIET = {
    "compute_logs": {
        "module": "dagster._core.storage.noop_compute_log_manager",
        "class": "NoOpComputeLogManager",
    }
}


def home(config: PipelineConfig) -> Path:
    """The Dagster home of this root, made ready; `DAGSTER_HOME` wins where it is set.

    Raises `ConfigError` for a remote root without `DAGSTER_HOME`, `StorageError` where it cannot be written.
    """
    given = os.environ.get("DAGSTER_HOME")
    if given:
        return Path(given)
    if not io.is_local(config.run.root):
        raise ConfigError(
            f"run.root={config.run.root!r}: Dagster's history cannot lie there; set DAGSTER_HOME to a local folder"
        )
    folder = io.local_path(config.run.root).absolute() / "dagster"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "dagster.yaml").exists():
            io.write_bytes(str(folder / "dagster.yaml"), SETTINGS.encode())
    except OSError as error:
        raise StorageError(f"run.root={config.run.root!r}: {error.strerror}; give a folder you may write to") from error
    return folder


def instance(config: PipelineConfig) -> DagsterInstance:
    """The history for runs in this process; output is not captured, because that hides the terminal from bars."""
    from dagster import DagsterInstance
    from dagster._core.instance.ref import InstanceRef

    folder = home(config)
    # Two that open a new history at once both create its tables, and one fails.
    with io.locked(folder / "opening.lock"):
        return DagsterInstance.from_ref(InstanceRef.from_dir(str(folder), overrides=QUIET))
