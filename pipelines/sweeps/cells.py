"""The work on one cell: its components run one after the other, in whichever process or on whichever node."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from components.artifacts import execute, store
from components.artifacts.execute import Known, Services
from components.contract.api import Artifact, Tracker
from components.tracking.progress import QuietProgress
from components.tracking.run import OffTracker
from vim_core.config import PipelineConfig
from vim_core.errors import VimError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """What one cell runs, complete: settings, components in order, and the artifacts before them by component."""

    number: int
    config: PipelineConfig
    names: tuple[str, ...]
    known: Known


@dataclass(frozen=True)
class Done:
    """What became of a job: artifacts by component, which of them were there before, or why there are not all."""

    number: int
    artifacts: dict[str, Artifact]
    reused: dict[str, bool]
    reason: str = ""


def found(job: Job) -> Done | None:
    """The job's result if every artifact exists already; reads manifests alone."""
    known = dict(job.known)
    made = {name: execute.find(name, job.config, known) for name in job.names}
    there = {name: artifact for name, artifact in made.items() if artifact is not None}
    return Done(job.number, there, dict.fromkeys(there, True)) if len(there) == len(made) else None


def perform(job: Job) -> Done:
    """Make what is missing. Raises nothing but interruptions: a failure is the result's `reason`."""
    known = dict(job.known)
    made: dict[str, Artifact] = {}
    reused: dict[str, bool] = {}
    for name in job.names:
        try:
            result = execute.execute(name, job.config, Services(_quiet, _untracked), known=known)
        except Exception as error:
            return Done(job.number, made, reused, f"{name}: {_reason(error, job.config.run.root)}")
        made[name], reused[name] = result.artifact, result.reused
    return Done(job.number, made, reused)


def _reason(error: Exception, root: str) -> str:
    known = error if isinstance(error, VimError) else store.storage_error(error, root)
    if known is None:
        log.debug("a point failed", exc_info=error)
        return f"{type(error).__name__}: {' '.join(str(error).split())}"
    return " ".join(str(known).split())


def _quiet(name: str) -> QuietProgress:
    return QuietProgress()


@contextlib.contextmanager
def _untracked(name: str, fingerprint: str, work: str) -> Iterator[Tracker]:
    """No MLflow run of a component: a point has one of its own, and a run for each of its parts would hide it."""
    yield OffTracker()


def die_with(parent: Any) -> None:
    """End this process when its parent has ended, however that was: nobody would take its results."""
    import os
    from multiprocessing.connection import wait

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, name="parent", daemon=True).start()
