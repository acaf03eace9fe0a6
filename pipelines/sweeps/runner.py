"""Runs a sweep: finds what exists, makes the rest, records failures; continues after an interruption at any point."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from components.artifacts import execute
from components.artifacts.execute import ArtifactCache
from components.contract import registry
from components.contract.api import Artifact
from components.contract.commands import command
from components.report import page
from components.report.sections import point_samples
from components.statistics.networks import FigureNames
from components.tracking import tracker
from components.tracking.pages import run_page
from components.tracking.parent import final_status
from components.tracking.progress import ClosingProgress
from components.tracking.sweep import PointRecord, SweepTracker
from components.tradeoff.grid import ACCEPTANCE, Point, default_axes, parse_axis
from components.training import prior_checkpoints as checkpoints
from pipelines.sweeps import jobs, results, spec
from pipelines.sweeps.check import check_sweep
from pipelines.sweeps.jobs import EvaluationJob, JobResult
from pipelines.sweeps.results import DONE, FAILED, Outcome
from pipelines.sweeps.spec import ALL, CHECKPOINT, LATEST, Sweep
from vim_core.config import PipelineConfig
from vim_core.errors import ConfigError, DataError, VimError
from vim_core.storage import io


@dataclass(frozen=True)
class SweepResult:
    """A finished sweep: the content of its `results.json`, and the folder of that file and of the page."""

    results: dict[str, Any]
    folder: str

    @property
    def total(self) -> int:
        """Number of points."""
        return int(self.results["counts"]["points"])

    @property
    def failed(self) -> int:
        """Number of points that could not be evaluated."""
        return int(self.results["counts"]["failed"])


def run(
    sweep: Sweep,
    config: PipelineConfig,
    progress: Callable[[str], ClosingProgress],
    tags: Mapping[str, str] = {},
) -> SweepResult:
    """Evaluate every point that is not evaluated yet, and write results, page and MLflow runs.

    A point that fails is recorded with its reason, and the others go on. After an interruption of any kind the same
    call continues; two callers at once wait for each other. `tags` are for the MLflow run.

    Raises:
        ConfigError: settings of points do not suit the preset, or the default axes have no figures in it; nothing runs.
        DataError: what all points share was not made yet, or there is no checkpoint; the message names the command.
    """
    check_sweep(sweep, config)
    bar = progress("sweep")
    root = io.absolute(config.run.root)
    try:
        with results.lock(root, sweep.name, bar.note):
            return _SweepRun(sweep, config, root, bar).execute(tags)
    finally:
        bar.close()


def identity(sweep: Sweep, config: PipelineConfig) -> str:
    """20 hex digits of the sweep's points and the preset's settings: the same sweep continues the same MLflow run."""
    spelled = dataclasses.asdict(sweep)
    for name in ("about", "parallel", "axes", "best"):
        spelled.pop(name)
    text = json.dumps([spelled, tracker.config_fingerprint(config)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:20]


class _SweepRun:
    """One run of a sweep: outcomes by the point's number, artifacts that all points share, axes of the ranking."""

    def __init__(self, sweep: Sweep, config: PipelineConfig, root: str, bar: ClosingProgress) -> None:
        self.sweep, self.bar, self.root = sweep, bar, root
        self.config = dataclasses.replace(config, run=dataclasses.replace(config.run, root=root))
        self.identity = identity(sweep, config)
        self.outcomes: dict[int, Outcome] = {}
        self.shared: ArtifactCache = {}
        self.axes: list[str] = []

    def execute(self, tags: Mapping[str, str]) -> SweepResult:
        """Evaluate the points; results and page are written also of a sweep that is cut short."""
        planned = self.plan()
        self.axes = self.sweep.axes
        if not self.axes:
            if "statistics" not in self.shared:
                raise ConfigError("axes=[]: the preset has no statistics, so samples have no distance; name two axes")
            names = FigureNames(self.shared["statistics"].properties["network"])
            self.axes = default_axes(names.distance, names.score)
        self.bar.start(len(self.outcomes), "point")
        params = {"settings": self.sweep.settings, "grid": self.sweep.grid}
        tracking = SweepTracker(self.config, self.sweep.name, self.identity, params, tags)
        tracking.start()
        error: BaseException | None = None
        try:
            self._evaluate(planned, tracking)
        except BaseException as raised:
            error = raised
            raise
        finally:
            result = self._finish(tracking, error)
        return result

    def plan(self) -> list[EvaluationJob]:
        """The jobs of all points but those whose checkpoint is gone, which have failed already."""
        steps, priors, gone = self._checkpoints()
        points = spec.expand(self.sweep, steps)
        self.outcomes = {point.number: Outcome(point) for point in points}
        for point in points:
            step = point.settings.get(CHECKPOINT)
            if step is not None and step not in priors:
                reason = gone.get(step, f"{CHECKPOINT}={step}: there is no such checkpoint")
                self.outcomes[point.number] = Outcome(point, FAILED, reason)
        self.shared = self._upstream(points, bool(steps))
        classes = len(self.shared["ingest"].properties["classes"]) if "ingest" in self.shared else 0
        possible = [point for point in points if self.outcomes[point.number].status != FAILED]
        return jobs.build(self.sweep, possible, self.config, classes, priors, self.shared)

    def _checkpoints(self) -> tuple[list[int], dict[int, Artifact], dict[int, str]]:
        """All steps with a checkpoint, the artifacts of those that points name, and the reasons others have none."""
        named = list(self.sweep.grid.get(CHECKPOINT, []))
        named += [given[CHECKPOINT] for given in (*self.sweep.points, self.sweep.settings) if CHECKPOINT in given]
        if not named:
            return [], {}, {}
        newest = checkpoints.export_latest(self.config)
        steps = [step for _, _, step in checkpoints.available(self.config) if newest is not None and step <= newest]
        wanted = steps if ALL in named else [newest if step == LATEST else step for step in named]
        priors, gone = checkpoints.export(self.config, [step for step in dict.fromkeys(wanted) if step is not None])
        return steps, priors, gone

    def _upstream(self, points: Sequence[Point], checkpointed: bool) -> ArtifactCache:
        """The artifacts before the points, each looked up once, so that all points use the same.

        Raises:
            DataError: one was not made yet.
        """
        names = self.sweep.components(any(ACCEPTANCE in point.settings for point in points))
        included = [name for name in self.config.components if name != "select" or name in names]
        upstream = {source for name in names for source in registry.upstream(name, included, self.config)}
        known: ArtifactCache = {}
        for name in sorted(upstream - set(names), key=registry.NAMES.index):
            artifact = execute.find(name, self.config, known)
            if artifact is None and not (name == "prior" and checkpointed):
                line = command("run", name, preset=self.config.preset)
                raise DataError(f"sweep {self.sweep.name}: {name} was not made with these settings yet: `{line}`")
        return known

    def _evaluate(self, planned: Sequence[EvaluationJob], tracking: SweepTracker) -> None:
        missing = []
        for job in planned:
            existing = jobs.find(job)
            if existing is None:
                missing.append(job)
            else:
                self._record(job, existing, tracking)
        self._save(tracking)
        # closed at once, also by an interruption, which stops the workers
        with contextlib.closing(jobs.evaluate_all(missing, self.config.run, self.sweep.parallel)) as finished:
            for result in finished:
                self._record(planned[result.number], result, tracking)
                self._save(tracking)

    def _record(self, job: EvaluationJob, result: JobResult, tracking: SweepTracker) -> None:
        """Take a job's artifacts and figures into the outcomes of its points."""
        for point in job.points:
            outcome = self.outcomes[point.number]
            outcome.artifacts = ({} if job.prior is None else {"prior": job.prior}) | result.artifacts
            outcome.status, outcome.reason = (FAILED, result.reason) if result.reason else (DONE, "")
            if not result.reason:
                try:
                    outcome.figures = results.figures(point, result.artifacts)
                except VimError as error:
                    outcome.status, outcome.reason = FAILED, str(error)
            if outcome.status == FAILED:
                self.bar.note(f"point {point.number} ({point.label}) failed: {outcome.reason}")
            tracking.point(_point_record(outcome, self.axes))

    def _save(self, tracking: SweepTracker) -> dict[str, Any]:
        outcomes = list(self.outcomes.values())
        self.bar.advance(sum(outcome.status in (DONE, FAILED) for outcome in outcomes))
        for outcome in outcomes:
            outcome.mlflow_run_id = tracking.run_of(outcome.point.key) or outcome.mlflow_run_id
        record = results.collect(
            self.sweep, self.identity, self.config.preset, self.axes, outcomes, self.shared, tracking.record()
        )
        results.write(self.root, self.sweep.name, record)
        return record

    def _finish(self, tracking: SweepTracker, error: BaseException | None) -> SweepResult:
        """Write results and page, and end the MLflow run."""
        tracking.wait()
        record = self._save(tracking)
        folder = results.folder(self.root, self.sweep.name)
        made = {
            number: each.artifacts["sample"] for number, each in self.outcomes.items() if "sample" in each.artifacts
        }
        runs = {0: record["mlflow"].get("run_id", "")} | {p["number"]: p["mlflow_run_id"] for p in record["points"]}
        server = str(record["mlflow"].get("tracking_uri", ""))
        links = {number: run_page(server, tracking.experiment_id, run_id) for number, run_id in runs.items()}
        html = page.sweep_page(record, point_samples(record["points"], made), links)
        io.write_bytes(io.join(folder, results.PAGE), html.encode())
        for name in (results.RESULTS, results.PAGE):
            if io.is_local(folder):
                tracking.file(str(io.local_path(io.join(folder, name))), "sweep")
        status = final_status(error)
        if error is None and not record["counts"]["done"]:
            status = "FAILED"
        tracking.log_figures(_summary(record))
        tracking.close(status)
        return SweepResult(record, folder)


def _summary(record: Mapping[str, Any]) -> dict[str, float]:
    """Metrics of the sweep's own MLflow run: numbers of points, and the figures of the best on the axes."""
    metrics = {name: float(record["counts"][name]) for name in ("points", "done", "failed")}
    best = next((group["best"] for group in record["groups"] if group["best"] is not None), None)
    if best is None:
        return metrics
    figures = next(point for point in record["points"] if point["number"] == best)["figures"]
    names = [parse_axis(text).name for text in record["axes"]]
    return metrics | {f"best/{name}": figures[name]["value"] for name in names if name in figures}


def _point_record(outcome: Outcome, axes: Sequence[str]) -> PointRecord:
    """The point as MLflow gets it; figures on the axes with their intervals."""
    point = outcome.point
    created = max((artifact.manifest.created for artifact in outcome.artifacts.values()), default="")
    names = {parse_axis(text).name for text in axes}
    values: dict[str, float] = {}
    for name, figure in outcome.figures.items():
        values[name] = figure["value"]
        if name in names:
            values |= {f"{name}_{end}": figure[end] for end in ("low", "high") if end in figure}
    artifacts = {name: artifact.manifest.fingerprint for name, artifact in outcome.artifacts.items()}
    return PointRecord(point.key, point.number, point.label, point.varying, values, outcome.reason, artifacts, created)
