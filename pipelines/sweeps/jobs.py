"""Jobs that evaluate a sweep's points: one for each set of candidates, which runs its components in order."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from components.artifacts import execute, store
from components.artifacts.execute import ArtifactCache, Reporting
from components.contract import settings
from components.contract.api import Artifact
from components.tracking.progress import QuietProgress
from components.tracking.tracker import untracked
from components.tradeoff.grid import ACCEPTANCE, Point, candidate_count, share_candidates
from pipelines.sweeps.spec import BLOCK, CHECKPOINT, SPECIAL, Sweep
from vim_core.config import PipelineConfig
from vim_core.errors import ConfigError, VimError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EvaluationJob:
    """Points with one set of candidates: settings, components to run in order, and the artifacts before them.

    `prior` is the checkpoint that takes the place of the trained prior, if the points name one.
    """

    number: int
    config: PipelineConfig
    components: tuple[str, ...]
    points: tuple[Point, ...]
    prior: Artifact | None = None
    upstream: ArtifactCache = field(default_factory=dict)

    def known(self) -> ArtifactCache:
        """A new dictionary of the artifacts before this job, by component."""
        return self.upstream | ({} if self.prior is None else {"prior": self.prior})


@dataclass(frozen=True)
class JobResult:
    """The artifacts of a job by component, and the reason where not all could be made."""

    number: int
    artifacts: dict[str, Artifact]
    reason: str = ""


def build(
    sweep: Sweep, points: Sequence[Point], config: PipelineConfig, classes: int, priors: Mapping[int, Artifact],
    upstream: ArtifactCache,
) -> list[EvaluationJob]:  # fmt: skip
    """One job for all points that differ in acceptance or block alone.

    Its candidates are as many as the strictest of its rates takes, and no fewer than `sample.count`.

    Args:
        sweep: the sweep's settings.
        points: of `spec.expand`.
        config: the preset's settings.
        classes: number of classes of the images; acceptance counts by class.
        priors: artifacts of the prior's checkpoints by step.
        upstream: artifacts of the components before the points.

    Raises:
        ConfigError: a value does not suit its setting, or the preset lacks a component that a point needs.
    """
    jobs = []
    for number, group in enumerate(share_candidates(points, (ACCEPTANCE, BLOCK))):
        given = group[0].settings
        rates = sorted({float(p.settings[ACCEPTANCE]) for p in group if ACCEPTANCE in p.settings}, reverse=True)
        components = sweep.components(bool(rates))
        for name in components:
            if name not in config.components:
                raise ConfigError(f"{group[0].label}: needs {name}, which is not in the preset {config.preset}")
        changed = settings.with_values(config, {key: value for key, value in given.items() if key not in SPECIAL})
        if rates:
            if not classes:
                raise ConfigError(f"{ACCEPTANCE}={rates}: samples are accepted by class, and the images have none")
            count = max(changed.sample.count, candidate_count(changed.select.count, rates, classes))
            changed = settings.with_values(changed, {"select.rates": rates, "sample.count": count})
        included = [name for name in changed.components if name != "select" or rates]
        changed = dataclasses.replace(changed, components=included)
        prior = priors.get(given.get(CHECKPOINT, -1))
        jobs.append(EvaluationJob(number, changed, tuple(components), tuple(group), prior, upstream))
    return jobs


def find(job: EvaluationJob) -> JobResult | None:
    """The job's result if every artifact exists already; reads manifests alone."""
    known = job.known()
    found = {name: execute.find(name, job.config, known) for name in job.components}
    artifacts = {name: artifact for name, artifact in found.items() if artifact is not None}
    return JobResult(job.number, artifacts) if len(artifacts) == len(found) else None


def evaluate(job: EvaluationJob) -> JobResult:
    """Make the missing artifacts. Raises nothing but interruptions: a failure is the result's `reason`."""
    known = job.known()
    artifacts: dict[str, Artifact] = {}
    # Each point has an MLflow run, and runs of its components would hide it.
    services = Reporting(lambda name: QuietProgress(), untracked(job.config).component)
    for name in job.components:
        try:
            artifacts[name] = execute.execute(name, job.config, services, cache=known).artifact
        except Exception as error:
            failure = error if isinstance(error, VimError) else store.storage_error(error, job.config.run.root)
            if failure is None:
                log.debug("a point failed", exc_info=error)
            kind = "" if failure is not None else f"{type(error).__name__}: "
            return JobResult(job.number, artifacts, f"{name}: {kind}{' '.join(str(failure or error).split())}")
    return JobResult(job.number, artifacts)
