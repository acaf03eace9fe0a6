"""The quality gates of each component."""

from __future__ import annotations

from collections.abc import Sequence

from components.artifacts.gates import counts, lineage, training
from components.artifacts.gates.verdict import Gate, Verdict
from components.artifacts.resolve import short_name
from components.contract.api import Artifact, Inputs
from vim_core.config import PipelineConfig
from vim_core.errors import GateError

FINITE, USAGE, COUNTED, LINEAGE = "finite", "codebook_usage", counts.GATE, lineage.GATE
GATES: dict[str, dict[str, Gate]] = {
    "ingest": {COUNTED: counts.check_ingest},
    "classify": {FINITE: training.check_finite, LINEAGE: lineage.check_lineage},
    "selector": {FINITE: training.check_finite, LINEAGE: lineage.check_lineage},
    "statistics": {FINITE: training.check_finite},
    "quantize": {FINITE: training.check_finite, USAGE: training.check_codebook_usage, LINEAGE: lineage.check_lineage},
    "tokenize": {COUNTED: counts.check_tokenize, LINEAGE: lineage.check_lineage},
    "reconstruct": {COUNTED: counts.check_reconstruct, LINEAGE: lineage.check_lineage},
    "prior": {FINITE: training.check_finite, LINEAGE: lineage.check_lineage},
    "sample": {COUNTED: counts.check_sample, LINEAGE: lineage.check_lineage},
    "select": {COUNTED: counts.check_select, LINEAGE: lineage.check_lineage},
    "score": {FINITE: training.check_finite},
    "tradeoff": {FINITE: training.check_finite},
    "probe": {FINITE: training.check_finite},
}
"""Gates by component and name; other components have none."""


def evaluate(name: str, config: PipelineConfig, artifact: Artifact, inputs: Inputs) -> list[Verdict]:
    """The verdicts of all gates of component `name` on its artifact."""
    return [gate(config, artifact, inputs) for gate in GATES.get(name, {}).values()]


def gate_error(artifact: Artifact, verdicts: Sequence[Verdict]) -> GateError | None:
    """The error that names every failed gate, its figure, its bound and what to do; None where all have passed."""
    failed = "; ".join(f"gate {each.gate}: {each.text}. {each.remedy}" for each in verdicts if not each.passed)
    name = short_name(artifact.manifest.key)
    return GateError(f"{name} is kept, but nothing is made from it: {failed}") if failed else None
