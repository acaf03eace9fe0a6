"""A rehearsal from beginning to end: small settings, images, every component, figures, findings."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from types import MappingProxyType
from typing import Any

from components.artifacts import execute, gates
from components.contract import registry, settings
from components.contract.api import Artifact, Progress
from components.rehearsal import images, weights
from components.rehearsal.figures import TrainingFigures, training_figures
from components.rehearsal.findings import FAIL, PASS, WARN, Finding, judge
from components.rehearsal.shrink import shrink
from components.tracking.tracker import untracked
from vim_core.config import PipelineConfig, TrainConfig
from vim_core.errors import VimError
from vim_core.storage import io

INPUTS = "rehearsal-inputs"
"""Folder below the root with generated images and weights; the same for every preset of a root."""


@dataclass
class Rehearsal:
    """The outcome for one preset: seconds and reuse by component, figures by training, findings."""

    preset: str
    root: str
    generated: bool
    seconds: dict[str, float] = field(default_factory=dict)
    trainings: dict[str, TrainingFigures] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    @property
    def status(self) -> str:
        """The worst finding."""
        found = {finding.status for finding in self.findings}
        return next((status for status in (FAIL, WARN) if status in found), PASS)

    def record(self) -> dict[str, Any]:
        """All of it as JSON-ready values."""
        return {"status": self.status, **asdict(self)}


def prepare(config: PipelineConfig, measured: int, root: str) -> tuple[PipelineConfig, bool]:
    """The settings of a rehearsal below `root`, and True where its images are generated; writes what is missing.

    Raises:
        ConfigError: the preset's settings contradict each other.
        StorageError: nothing can be written below the root.
    """
    inputs = io.absolute(io.join(root, INPUTS))
    values: dict[str, Any] = {
        "run.root": root, "run.rehearse": measured, "run.tracking_uri": "off", "run.register": False,
        "run.system_metrics": False, "gates.codebook_usage": 0.0,
    }  # fmt: skip
    generated = "ingest" in config.components and not images.own_images(config.ingest)
    if generated:
        values |= images.generate(io.join(inputs, images.kind(config.ingest)), config.ingest)
    values |= weights.generate(inputs, config)
    return settings.with_values(shrink(config, measured), values), generated


def rehearse(
    config: PipelineConfig,
    names: Sequence[str],
    measured: int,
    root: str,
    progress: Callable[[str], Progress],
    finished: Callable[[str, float], None] = lambda name, seconds: None,
    places: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
) -> Rehearsal:
    """Run components of a preset small, and judge their trainings.

    Args:
        config: the preset as it is; `run` says on what it runs.
        names: components in flow order, each after what it needs.
        measured: steps to time of each training.
        root: an artifact root of its own, path or URI; artifacts that are there already are not made again.
        progress: makes a component's progress bar.
        finished: called with each component and its seconds.
        places: fields of `run` by component, as in a cluster's profile.

    Raises:
        ConfigError, StorageError: see `prepare`. A component's own error is a finding.
    """
    small, generated = prepare(config, measured, root)
    result = Rehearsal(config.preset, root, generated)
    known: execute.ArtifactCache = {}
    for name in names:
        began = time.monotonic()
        try:
            own = replace(small, run=replace(small.run, **places.get(name, {})))
            services = execute.Reporting(progress, untracked(own).component)
            artifact = execute.execute(name, own, services, cache=known).artifact
            check_gates(name, own, artifact, known)
        except VimError as error:
            result.findings.append(Finding(name, "runs", FAIL, str(error), "its message says what to do"))
            break
        result.seconds[name] = time.monotonic() - began
        if isinstance(getattr(small, name), TrainConfig):
            splits = known["ingest"].properties["splits"] if "ingest" in known else {}
            figures = training_figures(name, config, small, artifact, int(splits.get("train", 0)))
            result.trainings[name] = figures
            result.findings += judge(figures, small)
        finished(name, result.seconds[name])
    else:
        text = f"{len(names)} components"
        result.findings.insert(0, Finding("preset", "runs", PASS, text))
    return result


def check_gates(name: str, config: PipelineConfig, artifact: Artifact, known: execute.ArtifactCache) -> None:
    """Raise `GateError` where the artifact fails a quality gate."""
    sources = registry.inputs_of(name, config.components, config)
    inputs = {key: known[source] for key, source in sources.items() if source in known}
    error = gates.gate_error(artifact, gates.evaluate(name, config, artifact, inputs))
    if error is not None:
        raise error
