"""The answer of one quality gate about one artifact."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from components.contract.api import Artifact, Inputs
from vim_core.config import PipelineConfig


@dataclass(frozen=True)
class Verdict:
    """One gate's answer: `text` names figure and bound, `remedy` what to do where it failed."""

    gate: str
    passed: bool
    text: str
    remedy: str = ""
    figures: Mapping[str, float] = field(default_factory=dict)


class Gate(Protocol):
    """A rule about an artifact of one component, given the artifacts it was made from."""

    def __call__(self, config: PipelineConfig, artifact: Artifact, inputs: Inputs) -> Verdict:
        """Return the verdict; a manifest that lacks an entry that the rule needs has failed."""


def remake(artifact: Artifact) -> str:
    """Return the remedy for an artifact whose manifest contradicts itself."""
    return f"make it again with `vimctl run {artifact.manifest.component} --force`"


def missing_property(gate: str, artifact: Artifact, what: str) -> Verdict:
    """The verdict on a manifest that lacks an entry that the gate needs."""
    return Verdict(gate, False, f"its manifest lacks {what}", remake(artifact))
