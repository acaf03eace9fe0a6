"""The common part of tracking pipelines and sweeps: a parent run, its owner, its experiment, one delivery queue."""

from __future__ import annotations

import contextlib
import getpass
import logging
import os
import socket
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from components.artifacts import process
from components.tracking.link import (
    DeliveryQueue,
    Link,
    ServerAway,
    ServerRefused,
    artifact_location,
    tracking_uri,
)
from components.tracking.pages import describe_experiment, run_page
from components.tracking.run import INTERNAL, MlflowRun
from vim_core.config import PipelineConfig

log = logging.getLogger(__name__)

PARENT = "mlflow.parentRunId"
OWNER_PREFIXES = (INTERNAL, "vim.", ".dagster/vim/", "vim/")
"""Beginnings of the names of an owner's tags in MLflow and Dagster, now and in runs of earlier versions."""
GONE_S = 120.0
"""Age of a heartbeat at which a run of another host counts as abandoned."""


class ParentTracker(ABC):
    """Tracks one parent run with children. Every call is queued; with `run.tracking_uri` off, it does nothing.

    `experiment_id` is MLflow's id of the experiment, or '' while the server is away.

    Raises `ConfigError` for a tracking address that contradicts the root.
    """

    START_S = 2.0
    """Seconds to wait for a run's id, which is written into results and manifests."""
    FLUSH_S = 5.0
    """Seconds to wait at the end for what is still queued."""
    missed_remedy = ""
    """End of the warning about undelivered entries."""

    def __init__(self, config: PipelineConfig, name: str, link: Link | None = None) -> None:
        """`name` is the run's title in MLflow."""
        self._config = config
        self._link = link or Link(tracking_uri(config.run) or "")
        self._queue = DeliveryQueue(self._link)
        self._parent = MlflowRun(self._link, self._experiment, name, self._tags)
        self.experiment_id = ""

    @property
    def uri(self) -> str:
        """The address at which runs are tracked, or '' where tracking is off."""
        return self._link.uri

    @property
    def run_id(self) -> str:
        """The parent run's id, or '' while the server is away."""
        return self._parent.run_id

    def record(self) -> dict[str, str]:
        """Address, experiment, run id, and the run's page where a server shows it; empty where tracking is off."""
        if not self.uri:
            return {}
        record = {"tracking_uri": self.uri, "experiment": self._config.preset, "run_id": self.run_id}
        url = run_page(self.uri, self.experiment_id, self.run_id)
        return record | ({"url": url} if url else {})

    def start(self) -> None:
        """Make the parent run or continue an earlier one; waits at most `START_S` seconds for its id."""
        if not self.uri:
            return
        # MLflow is imported here, not in the delivering thread: two threads that import at once can trip each other.
        with contextlib.suppress(ServerAway, ServerRefused):
            self._link.call(lambda client: None)
        self._queue.start()
        self._queue.add("the run", self._begin)
        self._queue.wait(self.START_S)

    def wait(self) -> bool:
        """Wait briefly for queued entries; True if all are delivered."""
        return self._queue.wait(self.FLUSH_S)

    def file(self, path: str, folder: str) -> None:
        """Upload a local file to a folder of the parent run; it replaces one of this name."""

        def log_file() -> None:
            self._parent.change(lambda client, run_id: client.log_artifact(run_id, path, folder))

        self._queue.add(path, log_file)

    def close(self, status: str) -> None:
        """End the parent run; what is queued gets at most `FLUSH_S` seconds to be delivered."""
        self._queue.add("the end of the run", lambda: self._parent.end(status))
        self._queue.add("the table of runs", self._describe_experiment)
        missed, refused = self._queue.close(self.FLUSH_S), self._link.refused
        if missed:
            names = ", ".join(missed[:4]) + (" …" if len(missed) > 4 else "")
            log.warning("MLflow at %s did not take %d entries (%s)%s", self.uri, len(missed), names, self.missed_remedy)
        if refused:
            log.warning("MLflow at %s refused %d entries, first: %s", self.uri, len(refused), refused[0][:200])

    @abstractmethod
    def _tags(self) -> Mapping[str, str]:
        """The parent run's tags."""

    @abstractmethod
    def _begin(self) -> None:
        """Open the parent run."""

    def _child(
        self, name: str, tags: Mapping[str, str], known_id: str = "", opened: Callable[[str], None] | None = None,
        title: str = "",
    ) -> MlflowRun:  # fmt: skip
        def with_parent() -> dict[str, str]:
            return {**tags, PARENT: self._parent.open()}

        return MlflowRun(self._link, self._experiment, name, with_parent, known_id, opened, title)

    def _newest_run(self, query: str) -> Any:
        """The newest run of the experiment that fits the query, or None."""
        experiment, order = self._experiment(), ["attributes.start_time DESC"]
        runs = self._link.call(lambda c: list(c.search_runs([experiment], query, max_results=1, order_by=order)))
        return runs[0] if runs else None

    def _describe_experiment(self) -> None:
        """Write the view of the experiment's table of runs. Raises `ServerAway`."""
        experiment = self._experiment()
        self._link.call(lambda client: describe_experiment(client, experiment))

    def _experiment(self) -> str:
        """The id of the preset's experiment, which is made, or brought back, where it is not there."""
        if not self.experiment_id:
            self.experiment_id = self._link.call(lambda client: open_experiment(client, self._config))
        return self.experiment_id


def open_experiment(client: Any, config: PipelineConfig) -> str:
    """The id of a preset's experiment, which is made with its view, or brought back, where it is not there."""
    experiment = client.get_experiment_by_name(config.preset)
    if experiment is None:
        created = str(client.create_experiment(config.preset, artifact_location=artifact_location(config.run)))
        describe_experiment(client, created)
        return created
    if experiment.lifecycle_stage == "deleted":
        client.restore_experiment(experiment.experiment_id)
    return str(experiment.experiment_id)


def owner_tags(prefix: str = INTERNAL) -> dict[str, str]:
    """Host, process id and start time of this process, and the first heartbeat: who else looks can tell if it runs."""
    me = process.current()
    tags = {"host": socket.gethostname(), "pid": str(me.pid), "pid_started": me.started}
    return {**{f"{prefix}{name}": value for name, value in tags.items()}, **heartbeat_tag(prefix)}


def heartbeat_tag(prefix: str = INTERNAL) -> dict[str, str]:
    """The heartbeat: now, in seconds since 1970."""
    return {f"{prefix}beat": str(int(time.time()))}


def owner_of(tags: Mapping[str, str]) -> dict[str, str]:
    """`host`, `pid`, `pid_started` and `beat` of a run, as far as its tags have them, under whichever prefix."""
    names = ("host", "pid", "pid_started", "beat")
    found = {name: [tags[p + name] for p in OWNER_PREFIXES if p + name in tags] for name in names}
    return {name: values[0] for name, values in found.items() if values}


def is_owner_gone(tags: Mapping[str, str]) -> bool:
    """True if the process behind a run has ended: looked up on this host, by heartbeat on another one."""
    owner = owner_of(tags)
    if owner.get("host") != socket.gethostname():
        return time.time() - float(owner.get("beat", "0")) > GONE_S
    try:
        pid = int(owner.get("pid", "-1"))
    except ValueError:
        return True
    return not process.ProcessId(pid, owner.get("pid_started", "")).alive


def source_tags(command: str) -> dict[str, str]:
    """Tags of a run that MLflow shows as its source, user and version: the command, who gave it, the code's commit."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a user without a name, as in containers
        user = str(os.getuid())
    return {"mlflow.source.name": command, "mlflow.source.type": "LOCAL", "mlflow.user": user, **commit_tag()}


def commit_tag() -> dict[str, str]:
    """The git commit of the code where it runs from a checkout."""
    here = Path(__file__).resolve().parents[2]
    if not (here / ".git").exists():
        return {}
    command = ["git", "-C", os.fspath(here), "rev-parse", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return {}
    return {"mlflow.source.git.commit": done.stdout.strip()}


def final_status(error: BaseException | None) -> str:
    """MLflow's status of a run that ended with this error: an interruption is no failure."""
    if error is None:
        return "FINISHED"
    return "FAILED" if isinstance(error, Exception) else "KILLED"
