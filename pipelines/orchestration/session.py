"""One pipeline run: components executed one by one, tracked, recorded, and published as a report."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from components.artifacts import execute, gates
from components.artifacts.execute import ArtifactCache, Reporting, Result
from components.artifacts.verdicts import Verdict
from components.contract import registry
from components.contract.api import Artifact, Progress
from components.tracking import tracker
from components.tracking.parent import final_status
from components.tracking.progress import ClosingProgress
from vim_core.config import PipelineConfig
from vim_core.errors import GateError
from vim_core.storage import io

log = logging.getLogger(__name__)
MLFLOW_URL = "VIM_MLFLOW_URL"
"""Environment variable with the address at which people see MLflow, where runs are tracked in a database."""
MLFLOW_EXPERIMENT = "VIM_MLFLOW_EXPERIMENT"
"""Environment variable with the id of the preset's experiment there."""
Finished = Callable[[str, Result], None]
"""Called with a component and its result, once it is finished."""
RunOverrides = Mapping[str, Mapping[str, Any]]
"""By component, fields of `run` that differ from the preset's: they set where this one runs, not its results."""


@dataclass
class Session:
    """The state of one run of a preset; made by `begin`, ended by `close`.

    `results` is by component in the order of execution, `verdicts` the outcomes of the quality gates of each artifact
    that was checked; `error` is the error that stopped the run, `page` the published report. `planned` are the
    components of this run, whose needs the images must meet (empty: all of the preset). `finished` is called with each
    component that was made or reused.
    """

    config: PipelineConfig
    progress: Callable[[str], ClosingProgress]
    tracking: tracker.PipelineTracker
    run_overrides: RunOverrides = field(default_factory=dict)
    planned: Collection[str] = ()
    results: dict[str, Result] = field(default_factory=dict)
    error: BaseException | None = None
    page: str = ""
    verdicts: dict[str, list[Verdict]] = field(default_factory=dict)
    finished: Finished = lambda name, result: None
    _known: ArtifactCache = field(default_factory=dict)

    def run(self, name: str, force: bool = False) -> Result:
        """Make or reuse one component's artifact; its inputs must exist.

        Raises:
            GateError: something that it is made from has failed a quality gate, whenever that was made.
            VimError: or another error, as the component raises it.
        """
        bars: list[ClosingProgress] = []

        def begin_bar(title: str) -> Progress:
            bars.append(self.progress(title))
            return bars[-1]

        try:
            for source in registry.upstream(name, self.config.components, self.config):
                failed = self.check_gates(source)
                if failed is not None:
                    raise failed
            overrides = self.run_overrides.get(name, {})
            config = replace(self.config, run=replace(self.config.run, **overrides)) if overrides else self.config
            services = Reporting(begin_bar, self.tracking.component)
            result = execute.execute(name, config, services, force, self._known)
            self.results[name] = result
            self.verdicts.pop(name, None)
            self.tracking.finished(name, result.artifact, result.reused)
            if name == "report":
                self._publish(result.artifact)
        except BaseException as error:
            self.error = error
            raise
        finally:
            for bar in bars:
                bar.close()
        self.finished(name, result)
        return result

    def check_gates(self, name: str) -> GateError | None:
        """Return the error for components that depend on an existing artifact which fails a quality gate, or None."""
        artifact = execute.find(name, self.config, self._known)
        if artifact is None:
            return None
        if name not in self.verdicts:
            sources = registry.inputs_of(name, self.config.components, self.config)
            existing = {key: execute.find(source, self.config, self._known) for key, source in sources.items()}
            inputs = {key: source for key, source in existing.items() if source is not None}
            self.verdicts[name] = gates.evaluate(name, self._planned_config(), artifact, inputs)
            for each in self.verdicts[name]:
                if not (each.passed or each.blocking):
                    log.warning("%s: %s; %s", name, each.text, each.remedy)
        return gates.gate_error(artifact, self.verdicts[name])

    def _planned_config(self) -> PipelineConfig:
        """The settings with the components of this run and those that these are made from."""
        components = self.config.components
        needed = {source for name in self.planned for source in registry.upstream(name, components, self.config)}
        planned = registry.in_flow_order(needed | set(self.planned))
        return replace(self.config, components=planned) if planned else self.config

    def close(self) -> None:
        """End the MLflow run with the status of this run."""
        self.tracking.close(final_status(self.error))

    def _publish(self, artifact: Artifact) -> None:
        from components.report import component as report

        record = {
            "preset": self.config.preset,
            "seconds": {name: round(result.seconds, 2) for name, result in self.results.items()},
            "reused": {name: result.reused for name, result in self.results.items()},
            "mlflow": self.tracking.record(),
        }
        self.page = report.publish(artifact, record, report_folder(self.config))
        self.tracking.report(self.page)
        if io.is_local(self.page):
            self.tracking.file(str(io.local_path(self.page)), "report")


def begin(
    config: PipelineConfig, progress: Callable[[str], ClosingProgress], dagster_run: str = "",
    run_overrides: RunOverrides = MappingProxyType({}), tags: Mapping[str, str] = MappingProxyType({}),
    planned: Collection[str] = (), finished: Finished = lambda name, result: None,
) -> Session:  # fmt: skip
    """Open the MLflow run with `tags`; `Session` has the others.

    Raises `ConfigError` for a tracking address that contradicts the root.
    """
    own = {"dagster/run_id": dagster_run} if dagster_run else {}
    tracking = tracker.open_run(config, {**own, **tags})
    return Session(config, progress, tracking, run_overrides, planned, finished=finished)


def report_folder(config: PipelineConfig) -> str:
    """The folder of a preset's published report."""
    return io.join(config.run.root, "reports", config.preset)
