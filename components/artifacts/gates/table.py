"""Which gates stand behind which component, and passing through them."""

from __future__ import annotations

from collections.abc import Sequence

from components.artifacts.gates import counts, lineage, training
from components.artifacts.gates.verdict import Gate, Verdict
from components.contract.api import Artifact, Inputs
from vim_core.config import PipelineConfig
from vim_core.errors import GateError

FINITE, USAGE, COUNTED, LINEAGE = "finite", "codebook_usage", counts.GATE, lineage.GATE
GATES: dict[str, dict[str, Gate]] = {
    "ingest": {COUNTED: counts.ingested},
    "classify": {FINITE: training.finite, LINEAGE: lineage.belongs},
    "selector": {FINITE: training.finite, LINEAGE: lineage.belongs},
    "statistics": {FINITE: training.finite},
    "quantize": {FINITE: training.finite, USAGE: training.codebook_usage, LINEAGE: lineage.belongs},
    "tokenize": {COUNTED: counts.tokenized, LINEAGE: lineage.belongs},
    "reconstruct": {COUNTED: counts.reconstructed, LINEAGE: lineage.belongs},
    "prior": {FINITE: training.finite, LINEAGE: lineage.belongs},
    "sample": {COUNTED: counts.sampled, LINEAGE: lineage.belongs},
    "select": {COUNTED: counts.selected, LINEAGE: lineage.belongs},
    "score": {FINITE: training.finite},
    "tradeoff": {FINITE: training.finite},
    "probe": {FINITE: training.finite},
}
"""Gates by component and name; a component that is not here has none."""


def judge(name: str, config: PipelineConfig, artifact: Artifact, inputs: Inputs) -> list[Verdict]:
    """What the gates of `name` say of its artifact."""
    return [gate(config, artifact, inputs) for gate in GATES.get(name, {}).values()]


def refusal(artifact: Artifact, verdicts: Sequence[Verdict]) -> GateError | None:
    """The error that names every failed gate, its figure, its bound and what to do; None where all have passed."""
    failed = [verdict for verdict in verdicts if not verdict.passed]
    if not failed:
        return None
    made = artifact.manifest
    said = "; ".join(f"gate {each.gate}: {each.text}. {each.remedy}" for each in failed)
    return GateError(f"{made.component}/{made.fingerprint[:8]} is kept, but nothing is made from it: {said}")
