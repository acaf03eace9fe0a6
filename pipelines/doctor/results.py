"""Checks, their target, and their results."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pipelines.jobs.profile import Cluster
from vim_core.config import PipelineConfig, RunConfig

OK, WARN, FAIL = "ok", "warn", "FAIL"


@dataclass(frozen=True)
class Result:
    """One line: status, subject of the check, finding, and remedy."""

    status: str
    check: str
    found: str
    advice: str = ""


@dataclass(frozen=True)
class Target:
    """Subject of the checks: a preset's settings, with the cluster's profile if one is named.

    `try_job` allows a check to start a small job on the cluster.
    """

    config: PipelineConfig
    cluster: Cluster | None = None
    try_job: bool = False

    @property
    def run(self) -> RunConfig:
        """The `run` settings on the cluster."""
        return self.run_settings("")

    def run_settings(self, component: str) -> RunConfig:
        """The `run` settings of one component there. Raises `ConfigError` for a value that `run` does not take."""
        return self.cluster.run_settings(self.config.run, component) if self.cluster else self.config.run


@dataclass(frozen=True)
class Check:
    """A named check. `run` may raise any error, and is abandoned after `timeout` seconds.

    It runs only where `applies` to the target.
    """

    name: str
    run: Callable[[Target], list[Result]]
    timeout: float = 10.0
    applies: Callable[[Target], bool] = lambda target: True


def ok(check: str, found: str) -> Result:
    """Return a result without a problem."""
    return Result(OK, check, found)


def warn(check: str, found: str, advice: str) -> Result:
    """Return a warning: it works, but not as well as it could."""
    return Result(WARN, check, found, advice)


def fail(check: str, found: str, advice: str) -> Result:
    """Return a failure."""
    return Result(FAIL, check, found, advice)
