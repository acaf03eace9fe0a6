"""The answers of gates, and what gates read of an artifact."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from components.contract.api import Artifact, FileEntry, Inputs
from components.contract.commands import command
from components.tracking.shipping import CURVES
from vim_core.config import PipelineConfig
from vim_core.storage import io

TAIL_BYTES = 1 << 17
"""Bytes at the end of the curves that are read, which hold hundreds of rows."""


@dataclass(frozen=True)
class Verdict:
    """One gate's answer: `text` names figure and bound, `remedy` what to do where it failed.

    One that is not `blocking` is advice: what is made from the artifact is made all the same.
    """

    gate: str
    passed: bool
    text: str
    remedy: str = ""
    figures: Mapping[str, float] = field(default_factory=dict)
    blocking: bool = True

    @property
    def stops(self) -> bool:
        """True for a failed gate, False where it has passed or is advice."""
        return self.blocking and not self.passed


Gate = Callable[[PipelineConfig, Artifact, Inputs], Verdict]
"""A rule about an artifact, given the artifacts it was made from; a manifest without an entry that it needs fails."""


def remake(artifact: Artifact) -> str:
    """The remedy for an artifact that is not as its component leaves it."""
    return f"make it again with `{command('run', artifact.manifest.component, '--force')}`"


def missing(gate: str, artifact: Artifact, what: str) -> Verdict:
    """The verdict on an artifact whose manifest lacks an entry."""
    return Verdict(gate, False, f"its manifest lacks {what}", remake(artifact))


def entry(artifact: Artifact, name: str) -> FileEntry | None:
    """The manifest's entry of a file, None for one that is not there."""
    return next((entry for entry in artifact.manifest.files if entry.name == name), None)


def last_rows(artifact: Artifact) -> list[dict[str, Any]]:
    """The last logged rows, oldest first; none for a component without curves."""
    curves = entry(artifact, CURVES)
    if curves is None:
        return []
    start = max(0, curves.bytes - TAIL_BYTES)
    lines = io.read_range(artifact.uri(CURVES), start, curves.bytes).splitlines()
    return [json.loads(line) for line in (lines[1:] if start else lines)]
