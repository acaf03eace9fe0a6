"""What a submission is, and what a kind of cluster must be able to do with one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

PENDING, RUNNING, SUCCEEDED, FAILED, STOPPED, LOST = "pending", "running", "succeeded", "failed", "stopped", "lost"
OVER = (SUCCEEDED, FAILED, STOPPED, LOST)
"""FAILED: the job's own error, which another attempt would meet again. LOST: its node went, another attempt may do."""


@dataclass(frozen=True)
class JobSpec:
    """What a job shall do, complete: the cluster needs neither presets nor sweep files of the submitter.

    `command` is run or sweep; `settings` the resolved preset as YAML; `target`, `start`, `only`, `force` those of
    `vimctl run`; `sweep` the sweep as YAML; `places` fields of `run` by component, as in the cluster's profile; `tags`
    are for the run in MLflow, such as which schedule sent the job.
    """

    command: str
    preset: str
    settings: str
    target: str = ""
    start: str = ""
    only: bool = False
    force: bool = False
    sweep: str = ""
    places: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    cluster: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class JobState:
    """How a job stands; `message` is the cluster's reason in words, `node` where its driver ran, times are seconds."""

    identity: str
    status: str
    message: str = ""
    node: str = ""
    started: float | None = None
    ended: float | None = None

    @property
    def over(self) -> bool:
        """Whether nothing more will happen to it."""
        return self.status in OVER


class Backend(Protocol):
    """A kind of cluster. Everything raises `VimError` naming address and remedy where the cluster does not answer."""

    def submit(self, identity: str, spec_uri: str) -> bool:
        """Start the job `vimctl job SPEC_URI` under this name; False where a job of this name is there already."""

    def state(self, identity: str) -> JobState | None:
        """How the job stands, or None where the cluster knows none of this name."""

    def jobs(self) -> list[JobState]:
        """All jobs of VIM that the cluster knows, newest first."""

    def follow(self, identity: str) -> Iterator[str]:
        """Lines of the job's output from its beginning, as they come, until it is over."""

    def stop(self, identity: str) -> None:
        """Ask the job to end; returns when it has."""

    def dashboard(self, identity: str = "") -> str:
        """The address of Ray's dashboard, of this job's page where one is named; '' where there is none."""
