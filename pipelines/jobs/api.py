"""The interface between submissions and kinds of clusters: job spec, job state, backend."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from components.contract.code import Code
from vim_core.config.fields import added_later

PENDING, RUNNING, SUCCEEDED, FAILED, STOPPED, LOST = "pending", "running", "succeeded", "failed", "stopped", "lost"
FINISHED = (SUCCEEDED, FAILED, STOPPED, LOST)
"""FAILED: the job's own error, which a retry would repeat. LOST: its node was lost; a retry may succeed."""


@dataclass(frozen=True)
class JobSpec:
    """Complete description of a job: the cluster needs neither presets nor sweep files of the submitter.

    `settings` is the resolved preset as YAML; `target`, `start`, `only` and `force` are those of `vimctl run`; `sweep`
    is the sweep as YAML; `places` are values of `run` by component, as in the cluster's profile; `tags` are for the run
    in MLflow, such as the schedule that sent the job. `code` is the submitter's: the cluster must run the same.
    """

    command: Literal["run", "sweep", "rehearse"]
    preset: str
    settings: str
    target: str = ""
    start: str = ""
    only: bool = False
    force: bool = False
    sweep: str = ""
    places: dict[str, dict[str, Any]] = field(default_factory=dict)
    cluster: str = ""
    tags: dict[str, str] = field(default_factory=dict)
    code: Code | None = added_later(None)


@dataclass(frozen=True)
class JobState:
    """Status of a job; `message` is the cluster's reason, `node` that of its driver, times are Unix seconds."""

    job_id: str
    status: str
    message: str = ""
    node: str = ""
    started: float | None = None
    ended: float | None = None

    @property
    def finished(self) -> bool:
        """True if the status is final."""
        return self.status in FINISHED


class Backend(Protocol):
    """A kind of cluster. All methods raise `VimError` with address and remedy where the cluster does not answer."""

    def submit(self, job_id: str, spec_uri: str) -> bool:
        """Start `vimctl job SPEC_URI` as a job of this id; False where one of this id is there already."""

    def state(self, job_id: str) -> JobState | None:
        """The job's state, or None where the cluster knows none of this id."""

    def jobs(self) -> list[JobState]:
        """All jobs of VIM that the cluster knows, newest first."""

    def follow(self, job_id: str) -> Iterator[str]:
        """Lines of the job's output from its beginning, as they come, until it is finished."""

    def stop(self, job_id: str) -> None:
        """Stop the job; returns when it has ended."""

    def dashboard(self, job_id: str = "") -> str:
        """The address of Ray's dashboard, or of the job's page in it; '' where there is none."""
