"""Quality gates as Dagster's asset checks: shown with each asset, and what follows is not started where one failed."""

from __future__ import annotations

from collections.abc import Sequence

import dagster as dg

from components.artifacts.gates.table import GATES
from components.artifacts.gates.verdict import Verdict


def specs(name: str) -> list[dg.AssetCheckSpec]:
    """The checks of one component's asset."""
    return [
        dg.AssetCheckSpec(gate, asset=name, blocking=True, description=(rule.__doc__ or gate).strip().splitlines()[0])
        for gate, rule in GATES.get(name, {}).items()
    ]


def results(verdicts: Sequence[Verdict]) -> list[dg.AssetCheckResult]:
    """The verdicts as Dagster records them."""
    return [
        dg.AssetCheckResult(
            check_name=each.gate,
            passed=each.passed,
            severity=dg.AssetCheckSeverity.ERROR,
            description=each.text if each.passed else f"{each.text}. {each.remedy}",
            metadata=dict(each.figures),
        )
        for each in verdicts
    ]
