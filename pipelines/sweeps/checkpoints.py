"""Checkpoints of a preset's training that can be evaluated, for sweeps and for schedules that watch for new ones."""

from __future__ import annotations

from collections.abc import Iterable

from components.contract.api import Artifact
from components.training import prior_checkpoints
from vim_core.config import PipelineConfig
from vim_core.errors import DataError

ATTEMPTS = 3


def available(config: PipelineConfig) -> list[tuple[str, str, int]]:
    """(component, fingerprint of the training, step) of every checkpoint there is, oldest first.

    The last step of a finished training is among them; none where what the training starts from was not made yet.
    Lists files alone: no checkpoint is read, and no training framework is loaded.
    """
    try:
        trained = prior_checkpoints.training_fingerprint(config)
        return [(prior_checkpoints.PRIOR, trained, step) for step in prior_checkpoints.available_steps(config)]
    except DataError:
        return []


def export(config: PipelineConfig, steps: Iterable[int]) -> tuple[dict[int, Artifact], dict[int, str]]:
    """The artifacts of these checkpoints by step, and the reasons why others have none.

    They are made at once, before any point is evaluated: the training goes on and keeps few of them.
    """
    artifacts: dict[int, Artifact] = {}
    reasons: dict[int, str] = {}
    for step in steps:
        try:
            artifacts[step] = prior_checkpoints.make_artifact(config, step)
        except DataError as error:
            reasons[step] = str(error)
    return artifacts, reasons


def export_latest(config: PipelineConfig) -> int | None:
    """The newest checkpoint's step after its artifact was made, or None where there is none.

    The training may replace the newest one while it is read; then the next newest is tried.

    Raises:
        DataError: that happened every time.
    """
    for attempt in range(ATTEMPTS):
        steps = prior_checkpoints.available_steps(config)
        if not steps:
            return None
        try:
            prior_checkpoints.make_artifact(config, steps[-1])
            return steps[-1]
        except DataError:
            if attempt == ATTEMPTS - 1:
                raise
    return None
