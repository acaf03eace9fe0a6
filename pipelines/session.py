"""One pipeline run: components executed one by one, tracked, recorded, and published as a report."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field

from components import execute, tracking
from components.api import Artifact, Progress
from components.execute import Known, Result, Services
from components.progress import ClosingProgress
from vim_core import io
from vim_core.config import PipelineConfig

log = logging.getLogger(__name__)


@dataclass
class Session:
    """What one run of a preset did so far; made by `begin`, ended by `close`.

    `results` is by component in the order of execution; `error` is what stopped the run.
    """

    config: PipelineConfig
    progress: Callable[[str], ClosingProgress]
    tracking: tracking.Tracking
    results: dict[str, Result] = field(default_factory=dict)
    error: BaseException | None = None
    page: str = ""
    _known: Known = field(default_factory=dict)
    _bar: ClosingProgress | None = None

    def run(self, name: str, force: bool = False) -> Result:
        """Make or reuse one component's artifact; its inputs must exist. Raises what the component raises."""
        try:
            services = Services(self._begin_bar, self.tracking.component)
            result = execute.execute(name, self.config, services, force, self._known)
            self.results[name] = result
            self.tracking.finished(name, result.artifact, result.reused)
            if name == "report":
                self._publish(result.artifact)
            return result
        except BaseException as error:
            self.error = error
            raise
        finally:
            if self._bar is not None:
                self._bar.close()

    def close(self) -> None:
        """End the MLflow run with how this run went."""
        self.tracking.close(tracking.ending(self.error))

    def _begin_bar(self, name: str) -> Progress:
        self._bar = self.progress(name)
        return self._bar

    def _publish(self, artifact: Artifact) -> None:
        from components import report

        record = {
            "preset": self.config.preset,
            "seconds": {name: round(result.seconds, 2) for name, result in self.results.items()},
            "reused": {name: result.reused for name, result in self.results.items()},
            "mlflow": mlflow_record(self.config, self.tracking),
        }
        self.page = report.publish(artifact, record, published(self.config))
        if io.is_local(self.page):
            self.tracking.file(str(io.local_path(self.page)), "report")


def begin(config: PipelineConfig, progress: Callable[[str], ClosingProgress], dagster_run: str = "") -> Session:
    """Open the MLflow run. Raises `ConfigError` for a tracking address that contradicts the root."""
    tags = {"dagster/run_id": dagster_run} if dagster_run else {}
    return Session(config, progress, tracking.open_run(config, tags))


def published(config: PipelineConfig) -> str:
    """The folder of a preset's published report."""
    return io.join(config.run.root, "reports", config.preset)


def mlflow_record(config: PipelineConfig, run: tracking.Tracking) -> dict[str, str]:
    """Where the run is tracked: address, experiment, run id, and its page where a server shows it."""
    if not run.uri:
        return {}
    record = {"tracking_uri": run.uri, "experiment": config.preset, "run_id": run.run_id}
    if run.uri.startswith("http") and run.run_id:
        record["url"] = f"{run.uri.rstrip('/')}/#/experiments/{run.experiment_id}/runs/{run.run_id}"
    return record
