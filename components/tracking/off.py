"""What stands in for MLflow where tracking is off."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from components.contract.api import Artifact, Tracker
from components.tracking.run import OffTracker


class NoTracking:
    """Tracking switched off by `run.tracking_uri=off`."""

    run_id = ""
    uri = ""
    experiment_id = ""

    def start(self) -> None:
        """Do nothing."""

    @contextlib.contextmanager
    def component(self, name: str, fingerprint: str, work: str) -> Iterator[Tracker]:
        """A tracker that keeps nothing."""
        yield OffTracker()

    def finished(self, name: str, artifact: Artifact, reused: bool) -> None:
        """Do nothing."""

    def file(self, path: str, folder: str = "") -> None:
        """Do nothing."""

    def report(self, page: str) -> None:
        """Do nothing."""

    def close(self, status: str) -> None:
        """Do nothing."""
