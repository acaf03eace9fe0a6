"""The MLflow run of a rehearsal, in an experiment of its own: `<preset>-rehearsal`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from components.rehearsal.run import Rehearsal
from components.tracking.parent import ParentTracker, owner_tags, source_tags
from vim_core.config import PipelineConfig

SUFFIX = "-rehearsal"


class RehearsalTracker(ParentTracker):
    """Tracks one finished rehearsal by `deliver`; does nothing where tracking is off."""

    def __init__(self, config: PipelineConfig, rehearsal: Rehearsal) -> None:
        super().__init__(replace(config, preset=config.preset + SUFFIX), f"rehearsal {config.preset}")
        self._rehearsal = rehearsal

    def deliver(self, path: str) -> dict[str, str]:
        """Send figures, findings and the local file `path`; returns where they are, see `ParentTracker.record`."""
        self.start()
        if self.uri:
            self._queue.add("the figures", lambda: self._parent.metrics(0, metrics(self._rehearsal)))
            self.file(path, "rehearsal")
        self.close("FINISHED")
        return self.record()

    def _tags(self) -> Mapping[str, str]:
        outcome = {"vim.kind": "rehearsal", "vim.preset": self._rehearsal.preset, "vim.status": self._rehearsal.status}
        return {**outcome, **owner_tags(), **source_tags("vimctl rehearse")}

    def _begin(self) -> None:
        self._parent.open()


def metrics(rehearsal: Rehearsal) -> dict[str, float]:
    """Every finite figure of the trainings by name, such as `prior/parts/forward`; findings by status."""
    values: dict[str, float] = {}

    def add(name: str, value: Any) -> None:
        if isinstance(value, Mapping):
            for key, each in value.items():
                add(f"{name}/{key}", each)
        elif isinstance(value, bool | int | float) and math.isfinite(value):
            values[name] = float(value)

    for name, figures in rehearsal.trainings.items():
        add(name, asdict(figures))
    for status in ("PASS", "WARN", "FAIL"):
        values[f"findings/{status}"] = float(sum(finding.status == status for finding in rehearsal.findings))
    return values
