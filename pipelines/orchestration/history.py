"""Location of Dagster's history: a home below the artifact root, with telemetry off."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING

from components.tracking.parent import is_owner_gone
from vim_core.config import PipelineConfig
from vim_core.errors import ConfigError, StorageError
from vim_core.storage import io

if TYPE_CHECKING:
    from dagster import DagsterInstance

PREVIOUS_SETTINGS = "telemetry:\n  enabled: false\nnux:\n  enabled: false\n"
"""The file of earlier versions, which is updated; a file that a user has changed is kept."""
SETTINGS = (
    PREVIOUS_SETTINGS
    + """\
# One component at a time on an accelerator; `dagster instance concurrency set accelerator/cuda 8` allows more.
concurrency:
  pools:
    granularity: op
    default_limit: 1
  runs:
    max_concurrent_runs: 8
    # Runs of one schedule follow each other.
    tag_concurrency_limits:
      - key: vim/schedule
        value: {applyLimitPerUniqueValue: true}
        limit: 1
# A run that ended in any way gives its turn back.
run_monitoring:
  enabled: true
  poll_interval_seconds: 30
  free_slots_after_run_end_seconds: 30
"""
)
NO_OUTPUT_CAPTURE = {
    "compute_logs": {
        "module": "dagster._core.storage.noop_compute_log_manager",
        "class": "NoOpComputeLogManager",
    }
}


def dagster_home(config: PipelineConfig) -> Path:
    """The Dagster home of this root, created with its settings; `DAGSTER_HOME` wins where it is set.

    Raises `ConfigError` for a remote root without `DAGSTER_HOME`, `StorageError` where it cannot be written.
    """
    if chosen := os.environ.get("DAGSTER_HOME"):
        return Path(chosen)
    if not io.is_local(config.run.root):
        raise ConfigError(
            f"run.root={config.run.root!r}: Dagster's history cannot lie there; set DAGSTER_HOME to a local folder"
        )
    folder = io.local_path(config.run.root).absolute() / "dagster"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        settings = folder / "dagster.yaml"
        if not settings.exists() or settings.read_text() == PREVIOUS_SETTINGS:
            io.write_bytes(str(settings), SETTINGS.encode())
    except OSError as error:
        raise StorageError(f"run.root={config.run.root!r}: {error.strerror}; give a folder you may write to") from error
    return folder


def instance(config: PipelineConfig) -> DagsterInstance:
    """The history for runs in this process; output is not captured, because that would hide progress bars."""
    from dagster import DagsterInstance
    from dagster._core.instance.ref import InstanceRef

    folder = dagster_home(config)
    # Two processes that open a new history at once both create its tables, and one fails.
    with io.locked(folder / "opening.lock"):
        return DagsterInstance.from_ref(InstanceRef.from_dir(str(folder), overrides=NO_OUTPUT_CAPTURE))


def fail_dead_runs(instance: DagsterInstance) -> None:
    """Mark runs as failed whose process on this machine was killed: they would occupy their pool's slots for good."""
    from dagster import DagsterRunStatus, RunsFilter

    unfinished = [DagsterRunStatus.STARTED, DagsterRunStatus.CANCELING]
    for run in instance.get_runs(filters=RunsFilter(statuses=unfinished)):
        owner = {name.replace("vim/", "vim.", 1): value for name, value in run.tags.items()}
        if owner.get("vim.host") == socket.gethostname() and is_owner_gone(owner):
            instance.report_run_failed(
                run, f"process {owner.get('vim.pid')} of {owner['vim.host']} is gone; run it again"
            )
            instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)
