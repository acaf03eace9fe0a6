"""`results.json` of a sweep: every point with its figures, the fronts, the best, and the artifacts it is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from components.contract.api import Artifact
from components.report.compare import judged
from pipelines.sweeps import pareto
from pipelines.sweeps.grid import Point
from pipelines.sweeps.spec import Sweep, axis
from vim_core.metrics.protocol import same_protocol

DONE, FAILED, WAITING = "done", "failed", "waiting"
Record = dict[str, Any]


@dataclass
class Outcome:
    """How one point stands."""

    point: Point
    status: str = WAITING
    reason: str = ""
    figures: dict[str, Record] = field(default_factory=dict)
    artifacts: dict[str, Artifact] = field(default_factory=dict)
    mlflow_run_id: str = ""

    def record(self) -> Record:
        """As JSON."""
        return {
            "number": self.point.number,
            "key": self.point.key,
            "label": self.point.label,
            "settings": self.point.varying,
            "status": self.status,
            "reason": self.reason,
            "seconds": round(sum(made.manifest.seconds for made in self.artifacts.values()), 2),
            "figures": self.figures,
            "artifacts": {name: made.manifest.fingerprint for name, made in self.artifacts.items()},
            "mlflow_run_id": self.mlflow_run_id,
        }


def collect(
    sweep: Sweep, identity: str, preset: str, axes: Sequence[str], outcomes: Sequence[Outcome],
    shared: Mapping[str, Artifact], mlflow: Record,
) -> Record:  # fmt: skip
    """The whole record.

    `groups` are the points whose figures on the axes have one protocol: each has a front and a best of its own,
    because figures of different protocols do not compare. `artifacts` are all that the sweep is made of.
    """
    made = [artifact for outcome in outcomes for artifact in outcome.artifacts.values()]
    groups = [_group(members, axes, sweep.best) for members in _comparable(outcomes, axes)]
    return {
        "sweep": sweep.name,
        "about": sweep.about,
        "preset": preset,
        "fingerprint": identity,
        "settings": sweep.settings,
        "varying": sweep.varying,
        "axes": list(axes),
        "best_rule": rule(sweep.best, axes),
        "counts": _counts(outcomes, made),
        "groups": groups,
        "points": [outcome.record() for outcome in outcomes],
        "artifacts": _pinned([*shared.values(), *made]),
        "mlflow": mlflow,
    }


def rule(best: str, axes: Sequence[str]) -> str:
    """How the best point is chosen, as a sentence."""
    if best:
        direction, name = axis(best)
        return f"The best point has the {'largest' if direction == 'max' else 'smallest'} {name}."
    (_, x), (_, y) = map(axis, axes)
    return (
        f"The best point is the one of the front that is nearest to the best {x} and the best {y} of the front, "
        "each scaled from its worst to its best there."
    )


def value(outcome: Outcome, name: str) -> float | None:
    """A figure of a point, or a setting that is a number; None where it has neither."""
    if name in outcome.figures:
        return float(outcome.figures[name]["value"])
    setting = outcome.point.settings.get(name)
    return float(setting) if isinstance(setting, int | float) and not isinstance(setting, bool) else None


def _comparable(outcomes: Sequence[Outcome], axes: Sequence[str]) -> list[list[Outcome]]:
    names = [axis(text)[1] for text in axes]
    groups: list[list[Outcome]] = []
    for outcome in outcomes:
        if any(value(outcome, name) is None for name in names):
            continue
        home = next((group for group in groups if _alike(group[0], outcome, names)), None)
        if home is None:
            groups.append([outcome])
        else:
            home.append(outcome)
    return groups


def _alike(one: Outcome, other: Outcome, names: Sequence[str]) -> bool:
    return all(same_protocol(_judged(one, name), _judged(other, name)) for name in names)


def _judged(outcome: Outcome, name: str) -> Record:
    protocol = outcome.figures.get(name, {}).get("protocol", {})
    return judged({}, protocol)


def _group(members: Sequence[Outcome], axes: Sequence[str], best: str) -> Record:
    (x_sense, x), (y_sense, y) = map(axis, axes)
    signs = (1 if x_sense == "max" else -1, 1 if y_sense == "max" else -1)
    pairs = [(value(each, x) or 0.0, value(each, y) or 0.0) for each in members]
    numbers = [each.point.number for each in members]
    chosen = _by_key(members, best) if best else pareto.nearest_to_ideal(pairs, signs)
    front = [numbers[i] for i in pareto.front(pairs, signs)]
    return {"points": numbers, "front": front, "best": None if chosen is None else numbers[chosen]}


def _by_key(members: Sequence[Outcome], best: str) -> int | None:
    direction, name = axis(best)
    sign = 1 if direction == "max" else -1
    known = [(i, found) for i, each in enumerate(members) if (found := value(each, name)) is not None]
    return max(known, key=lambda pair: (sign * pair[1], -pair[0]))[0] if known else None


def _counts(outcomes: Sequence[Outcome], made: Sequence[Artifact]) -> Record:
    """Points by how they stand, and how many artifacts of each component they come from."""
    states = [outcome.status for outcome in outcomes]
    places = {(artifact.manifest.component, artifact.manifest.fingerprint) for artifact in made}
    components = sorted({component for component, _ in places})
    return {
        "points": len(states),
        **{state: states.count(state) for state in (DONE, FAILED, WAITING)},
        "artifacts": {name: sum(component == name for component, _ in places) for name in components},
    }


def _pinned(made: Sequence[Artifact]) -> dict[str, list[Record]]:
    """What must not be removed while these results are shown, by component."""
    found: dict[str, dict[str, Record]] = {}
    for artifact in made:
        manifest = artifact.manifest
        entry = {"fingerprint": manifest.fingerprint, "digest": artifact.digest, "folder": artifact.folder}
        found.setdefault(manifest.component, {})[manifest.fingerprint] = entry
    return {component: list(entries.values()) for component, entries in found.items()}
