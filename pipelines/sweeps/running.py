"""Running a sweep: what exists is found, the rest is made, failures are recorded, and every step of it can be lost."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from components.artifacts import execute
from components.artifacts.execute import Known
from components.contract import registry
from components.contract.api import Artifact
from components.tracking import tracker
from components.tracking.progress import ClosingProgress
from components.tracking.sweep import OffSweepTracking, PointRecord, open_sweep
from pipelines.sweeps import checkpoints, figures, grid, page, pool, results, spec, state
from pipelines.sweeps.cells import Done, Job, found
from pipelines.sweeps.grid import Cell, Point
from pipelines.sweeps.results import DONE, FAILED, Outcome
from pipelines.sweeps.spec import CHECKPOINT, LATEST, Sweep
from vim_core.config import PipelineConfig
from vim_core.errors import ConfigError, DataError, VimError
from vim_core.storage import io


@dataclass(frozen=True)
class SweepResult:
    """A finished sweep: the content of its `results.json`, the folder where that lies, and its page."""

    results: dict[str, Any]
    folder: str
    page: str

    @property
    def total(self) -> int:
        """How many points there are."""
        return int(self.results["counts"]["points"])

    @property
    def failed(self) -> int:
        """How many of them could not be evaluated."""
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
        ConfigError: a setting does not suit the preset, or the default axes have no figures in it.
        DataError: what all points share was not made yet, or there is no checkpoint; the message names the command.
    """
    bar = progress("sweep")
    root = _root(config)
    try:
        with state.held(root, sweep.name, bar.note):
            return _Run(sweep, config, root, bar, tags).whole()
    finally:
        bar.close()


def identity(sweep: Sweep, config: PipelineConfig) -> str:
    """20 hex digits over what the sweep asks and the settings it asks it of: the same sweep has the same MLflow run."""
    asked = dataclasses.asdict(sweep)
    for told in ("about", "parallel", "axes", "best"):
        asked.pop(told)
    text = json.dumps([asked, tracker.config_fingerprint(config)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def default_axes(shared: Known) -> list[str]:
    """The distance to real images against the Inception Score where both are the published network's, else accuracy.

    Raises:
        ConfigError: there are no statistics of real images, so there is no distance.
    """
    if "statistics" not in shared:
        raise ConfigError("axes=[]: the preset has no statistics, so samples have no distance; name two axes")
    from components.score.names import Names

    network = shared["statistics"].properties["network"]
    names = Names.of(network)
    across = names.score if network.get("published") else "conditional_accuracy"
    return [f"max {across}", f"min {names.distance}"]


def _root(config: PipelineConfig) -> str:
    return io.absolute(config.run.root)


class _Run:
    """One run of a sweep."""

    def __init__(
        self, sweep: Sweep, config: PipelineConfig, root: str, bar: ClosingProgress, tags: Mapping[str, str]
    ) -> None:
        self.sweep, self.bar, self.root = sweep, bar, root
        self.config = dataclasses.replace(config, run=dataclasses.replace(config.run, root=root))
        self.identity = identity(sweep, config)
        self.tags = tags
        self.outcomes: dict[int, Outcome] = {}
        self.shared: Known = {}
        self.axes: list[str] = []

    def whole(self) -> SweepResult:
        cells = self.cells()
        self.axes = self.sweep.axes or default_axes(self.shared)
        total = len(self.outcomes)
        self.bar.start(total, "point")
        asked = {"settings": self.sweep.settings, "grid": self.sweep.grid}
        told = open_sweep(self.config, self.sweep.name, self.identity, asked, self.tags)
        error: BaseException | None = None
        try:
            self._evaluate(cells, told)
        except BaseException as stopped:
            error = stopped
            raise
        finally:
            made = self._finish(told, error)
        return made

    def cells(self) -> list[Cell]:
        """What there is to do; points whose checkpoint is gone have failed already."""
        steps, priors, gone = self._checkpoints()
        points = grid.expand(self.sweep, steps)
        self.outcomes = {point.number: Outcome(point) for point in points}
        for point in points:
            step = point.settings.get(CHECKPOINT)
            if step is not None and step not in priors:
                reason = gone.get(step, f"{CHECKPOINT}={step}: there is no such checkpoint")
                self.outcomes[point.number] = Outcome(point, FAILED, reason)
        self.shared = self._shared(points, bool(steps))
        classes = len(self.shared["ingest"].properties["classes"]) if "ingest" in self.shared else 0
        left = [point for point in points if self.outcomes[point.number].status != FAILED]
        return grid.cells(self.sweep, left, self.config, classes, priors)

    def _checkpoints(self) -> tuple[list[int], dict[int, Artifact], dict[int, str]]:
        """The steps there are, the artifacts of those that are asked for, and why others have none."""
        asked = [*self.sweep.grid.get(CHECKPOINT, []), *(p[CHECKPOINT] for p in self.sweep.points if CHECKPOINT in p)]
        asked += [self.sweep.settings[CHECKPOINT]] if CHECKPOINT in self.sweep.settings else []
        if not asked:
            return [], {}, {}
        newest = checkpoints.latest(self.config)
        steps = [step for _, _, step in checkpoints.available(self.config) if newest is not None and step <= newest]
        wanted = steps if spec.ALL in asked else [newest if each == LATEST else each for each in asked]
        priors, gone = checkpoints.secured(self.config, [step for step in dict.fromkeys(wanted) if step is not None])
        return steps, priors, gone

    def _shared(self, points: list[Point], checkpointed: bool) -> Known:
        """The artifacts before the points, each looked up once, so that every point stands on the same.

        Raises:
            DataError: one was not made yet.
        """
        known: Known = {}
        rejecting = any(spec.ACCEPTANCE in point.settings for point in points)
        for name in _before(self.sweep.components(rejecting), self.config):
            artifact = execute.find(name, self.config, known)
            if artifact is None and not (name == "prior" and checkpointed):
                command = f"vimctl run {name} --preset {self.config.preset}"
                raise DataError(f"sweep {self.sweep.name}: {name} was not made with these settings yet: `{command}`")
        return known

    def _evaluate(self, cells: list[Cell], told: OffSweepTracking) -> None:
        jobs = [self._job(number, cell) for number, cell in enumerate(cells)]
        waiting = []
        for job in jobs:
            there = found(job)
            if there is None:
                waiting.append(job)
            else:
                self._take(cells[job.number], there, told)
        self._save(told)
        self.bar.advance(self._over())
        # Closed at once, also by an interruption: whoever works on a cell then stops.
        with contextlib.closing(pool.results(waiting, self.config.run, self.sweep.parallel)) as finished:
            for done in finished:
                self._take(cells[done.number], done, told)
                self._save(told)
                self.bar.advance(self._over())

    def _job(self, number: int, cell: Cell) -> Job:
        known = dict(self.shared)
        if cell.prior is not None:
            known["prior"] = cell.prior
        return Job(number, cell.config, cell.names, known)

    def _take(self, cell: Cell, done: Done, told: OffSweepTracking) -> None:
        for point in cell.points:
            outcome = self.outcomes[point.number]
            outcome.artifacts = done.artifacts
            if cell.prior is not None:
                outcome.artifacts = {"prior": cell.prior, **done.artifacts}
            outcome.status, outcome.reason = (FAILED, done.reason) if done.reason else (DONE, "")
            if not done.reason:
                try:
                    outcome.figures = figures.of_point(point, done.artifacts)
                except VimError as error:
                    outcome.status, outcome.reason = FAILED, str(error)
            if outcome.status == FAILED:
                self.bar.note(f"point {point.number} ({point.label}) failed: {outcome.reason}")
            told.point(_record(outcome, self.axes))

    def _over(self) -> int:
        return sum(outcome.status in (DONE, FAILED) for outcome in self.outcomes.values())

    def _save(self, told: OffSweepTracking) -> dict[str, Any]:
        for outcome in self.outcomes.values():
            outcome.mlflow_run_id = told.run_of(outcome.point.key) or outcome.mlflow_run_id
        made = results.collect(
            self.sweep, self.identity, self.config.preset, self.axes, list(self.outcomes.values()), self.shared,
            told.record(),
        )  # fmt: skip
        state.write(self.root, self.sweep.name, made)
        return made

    def _finish(self, told: OffSweepTracking, error: BaseException | None) -> SweepResult:
        """Results, page and the end of the MLflow run, also of a sweep that was cut short."""
        told.settle()
        made = self._save(told)
        folder = state.folder(self.root, self.sweep.name)
        uri = io.join(folder, state.PAGE)
        io.write_bytes(uri, page.render(made).encode())
        for name in (state.RESULTS, state.PAGE):
            if io.is_local(folder):
                told.file(str(io.local_path(io.join(folder, name))))
        status = tracker.ending(error)
        if error is None and not made["counts"]["done"]:
            status = "FAILED"
        told.close(status, results_of_best(made))
        return SweepResult(made, folder, uri)


def results_of_best(made: Mapping[str, Any]) -> dict[str, float]:
    """What the sweep's own MLflow run shows: how many points, and the figures of the best on the axes."""
    counts = made["counts"]
    shown = {name: float(counts[name]) for name in ("points", "done", "failed")}
    best = next((group["best"] for group in made["groups"] if group["best"] is not None), None)
    if best is None:
        return shown
    point = next(point for point in made["points"] if point["number"] == best)
    names = [spec.axis(text)[1] for text in made["axes"]]
    return shown | {f"best/{name}": point["figures"][name]["value"] for name in names if name in point["figures"]}


def _record(outcome: Outcome, axes: list[str]) -> PointRecord:
    point = outcome.point
    made = max((a.manifest.created for a in outcome.artifacts.values()), default="")
    names = {spec.axis(text)[1] for text in axes}
    values: dict[str, float] = {}
    for name, figure in outcome.figures.items():
        values[name] = figure["value"]
        if name in names:
            values |= {f"{name}_{end}": figure[end] for end in ("low", "high") if end in figure}
    artifacts = {name: artifact.manifest.fingerprint for name, artifact in outcome.artifacts.items()}
    return PointRecord(point.key, point.number, point.label, point.varying, values, outcome.reason, artifacts, made)


def _before(names: list[str], config: PipelineConfig) -> list[str]:
    """All that must be there before these components can run."""
    components = [name for name in config.components if name != "select" or name in names]
    needed = {source for name in names for source in registry.upstream(name, components, config)}
    return sorted(needed - set(names), key=registry.NAMES.index)
