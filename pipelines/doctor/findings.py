"""What a check says, and what all checks are given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from pipelines.jobs.profile import Cluster
from vim_core.config import PipelineConfig, RunConfig

OK, WARN, FAIL = "ok", "warn", "FAIL"


@dataclass(frozen=True)
class Finding:
    """One line: how it stands, what was looked at, what was found there, and what to do about it."""

    status: str
    check: str
    found: str
    advice: str = ""


@dataclass(frozen=True)
class Subject:
    """What is examined: a preset's settings, with those of the cluster where one is named.

    `try_job` allows to start a small job on the cluster.
    """

    config: PipelineConfig
    cluster: Cluster | None = None
    try_job: bool = False

    @property
    def run(self) -> RunConfig:
        """Where the run as a whole works and keeps things."""
        return self.place("")

    def place(self, component: str) -> RunConfig:
        """Where one component works. Raises `ConfigError` for a value that `run` does not take."""
        return self.cluster.place(self.config.run, component) if self.cluster else self.config.run


@dataclass(frozen=True)
class Check:
    """A named look at something; `act` may take its time and may fail in any way. `seconds` is its limit."""

    name: str
    act: Callable[[Subject], list[Finding]]
    seconds: float = 10.0
    needs: Callable[[Subject], bool] = field(default=lambda subject: True)


def ok(check: str, found: str) -> Finding:
    """All is well."""
    return Finding(OK, check, found)


def warn(check: str, found: str, advice: str) -> Finding:
    """It works, and worse than it could."""
    return Finding(WARN, check, found, advice)


def fail(check: str, found: str, advice: str) -> Finding:
    """It does not work."""
    return Finding(FAIL, check, found, advice)
