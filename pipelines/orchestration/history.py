"""Location of Dagster's history: a home below the artifact root, with telemetry off."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from components.tracking.link import UNFIT
from components.tracking.parent import is_owner_gone, owner_of
from vim_core.config import PipelineConfig
from vim_core.errors import ConfigError, StorageError
from vim_core.storage import io

if TYPE_CHECKING:
    from dagster import DagsterInstance, DagsterRun

SCHEDULE_TAG = "vim/schedule"
"""Tag of a Dagster run with the name of its schedule."""
OWNER_PREFIX = ".dagster/vim/"
"""Prefix of tags for programs: Dagster shows none of those that begin with `.dagster/`."""
CUT_SHORT = ".dagster/vim/cut_short"
"""Tag of a scheduled sweep's run that was stopped with its process: `true` until it is started again."""
TRIES = 3
"""Starts of one scheduled sweep at most."""
LOCATION, REPOSITORY = "pipelines.definitions", "__repository__"
"""Where `vimctl ui` has its assets; Dagster's timeline shows the runs of such a place alone."""
REPOSITORY_TAG = ".dagster/repository"
REASON_LENGTH = 300

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
    if strange := UNFIT.search(str(folder)):
        raise ConfigError(
            f"run.root={config.run.root!r}: Dagster's history cannot lie in a folder with {strange[0]} in "
            "its path; rename the folder, or set DAGSTER_HOME to another one"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        settings = folder / "dagster.yaml"
        if not settings.exists() or settings.read_text() == PREVIOUS_SETTINGS:
            io.write_bytes(str(settings), SETTINGS.encode())
    except OSError as error:
        raise StorageError(f"run.root={config.run.root!r}: {error.strerror}; give a folder you may write to") from error
    return folder


def instance(config: PipelineConfig) -> DagsterInstance:
    """The history for runs in this process; output is not captured, because that would hide progress bars.

    Raises `ConfigError` as `dagster_home`, `StorageError` where its databases cannot be opened, as on a full disk.
    """
    from dagster import DagsterInstance
    from dagster._core.instance.ref import InstanceRef
    from sqlalchemy.exc import OperationalError

    folder = dagster_home(config)
    try:
        # Two processes that open a new history at once both create its tables, and one fails.
        with io.locked(folder / "opening.lock"):
            return DagsterInstance.from_ref(InstanceRef.from_dir(str(folder), overrides=NO_OUTPUT_CAPTURE))
    except (OSError, OperationalError) as error:
        raise unusable(config, error) from error


def unusable(config: PipelineConfig, error: Exception) -> StorageError:
    """The error for people where the history's databases cannot be opened or written, such as on a full disk."""
    reason = " ".join(str(getattr(error, "orig", error)).split())
    return StorageError(
        f"{dagster_home(config)}: Dagster's history cannot be written ({reason}); free some space or give a folder you "
        "may write to, by run.root or DAGSTER_HOME"
    )


def fail_dead_runs(instance: DagsterInstance) -> None:
    """Mark runs as failed whose process on this machine was killed: they would occupy their pool's slots for good."""
    from dagster import DagsterRunStatus, RunsFilter

    unfinished = [DagsterRunStatus.STARTED, DagsterRunStatus.CANCELING]
    for run in instance.get_runs(filters=RunsFilter(statuses=unfinished)):
        owner = owner_of(run.tags)
        if owner.get("host") == socket.gethostname() and is_owner_gone(run.tags):
            instance.report_run_failed(run, f"process {owner.get('pid')} of {owner['host']} is gone; run it again")
            instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)
            if SCHEDULE_TAG in run.tags:
                instance.add_run_tags(run.run_id, {CUT_SHORT: "true"})


def active_sweeps(instance: DagsterInstance) -> dict[str, str]:
    """The schedules of the scheduled sweeps that run now, by run id."""
    from dagster import DagsterRunStatus, RunsFilter

    active = [DagsterRunStatus.STARTING, DagsterRunStatus.STARTED, DagsterRunStatus.CANCELING]
    runs = instance.get_runs(filters=RunsFilter(statuses=active))
    return {run.run_id: run.tags[SCHEDULE_TAG] for run in runs if SCHEDULE_TAG in run.tags}


def hand_over(instance: DagsterInstance, run_ids: Iterable[str]) -> None:
    """Mark runs of scheduled sweeps that end now with their process, so that the next daemon starts them again."""
    for run_id in run_ids:
        instance.add_run_tags(run_id, {CUT_SHORT: "true"})


def take_over(instance: DagsterInstance) -> list[DagsterRun]:
    """The runs that were cut short and have ended, each once; see `hand_over`."""
    from dagster import RunsFilter

    runs = [each for each in instance.get_runs(RunsFilter(tags={CUT_SHORT: "true"})) if each.is_finished]
    for run in runs:
        instance.add_run_tags(run.run_id, {CUT_SHORT: "started again"})
    return [run for run in runs if not run.is_success]


def failure_reason(instance: DagsterInstance, run_id: str) -> str:
    """The first line of the error that ended a run, '' where none is known."""
    from dagster import DagsterEventType

    kinds = {DagsterEventType.STEP_FAILURE, DagsterEventType.RUN_FAILURE, DagsterEventType.RUN_CANCELED}
    for entry in instance.all_logs(run_id, of_type=kinds):
        event = entry.dagster_event
        if event is None:
            continue
        data = event.event_specific_data
        error = getattr(data, "error", None)
        while error is not None and error.cause is not None:
            error = error.cause
        if error is not None and "InterruptedError" in error.message:
            return "it was interrupted"
        text = error.message.partition(": ")[2] or error.message if error is not None else event.message
        if text and text.strip():
            return " ".join(text.split())[:REASON_LENGTH]
    return ""


def show_on_timeline(instance: DagsterInstance, run: DagsterRun) -> None:
    """Give a run of the command line the place of the user interface's jobs."""
    from dagster._core.remote_origin import RegisteredCodeLocationOrigin, RemoteJobOrigin, RemoteRepositoryOrigin

    place = RemoteRepositoryOrigin(RegisteredCodeLocationOrigin(LOCATION), REPOSITORY)
    instance.run_storage.replace_job_origin(run, RemoteJobOrigin(place, run.job_name))
