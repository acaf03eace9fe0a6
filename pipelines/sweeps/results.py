"""`results.json` of a sweep: points with figures, fronts, the best, artifacts; and its folder below the root."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from components.artifacts import lease, store, usage
from components.contract.api import Artifact, Manifest
from components.report.compare import comparable_groups, comparable_protocol
from components.report.metrics import ACCEPTED, interval
from components.tradeoff import grid
from components.tradeoff.grid import ACCEPTANCE, Point
from pipelines.sweeps.spec import BLOCK, NAME, PROBED, SWEEPS, Sweep
from vim_core.errors import ConfigError, DataError
from vim_core.storage import io

RESULTS, PAGE = "results.json", "sweep.html"
"""Files of a sweep in `sweeps/<name>` below the root."""
DONE, FAILED, WAITING = "done", "failed", "waiting"
BLOCK_ACCURACY = "accuracy"
"""Name of the probe's accuracy on one block, after `probe.`."""
Record = dict[str, Any]


@dataclass
class Outcome:
    """Status, figures and artifacts of one point."""

    point: Point
    status: str = WAITING
    reason: str = ""
    figures: dict[str, Record] = field(default_factory=dict)
    artifacts: dict[str, Artifact] = field(default_factory=dict)
    mlflow_run_id: str = ""

    def record(self) -> Record:
        """The point as JSON."""
        return {
            "number": self.point.number,
            "key": self.point.key,
            "label": self.point.label,
            "settings": self.point.varying,
            "status": self.status,
            "reason": self.reason,
            "seconds": round(sum(artifact.manifest.seconds for artifact in self.artifacts.values()), 2),
            "figures": self.figures,
            "artifacts": {name: artifact.manifest.fingerprint for name, artifact in self.artifacts.items()},
            "mlflow_run_id": self.mlflow_run_id,
        }


def figures(point: Point, artifacts: Mapping[str, Artifact]) -> dict[str, Record]:
    """`value`, `low` and `high` (where there is an interval) and `protocol` of a point's figures by name.

    Figures of generated images are named as `score` names them, those of the probe start with `probe.`.

    Raises:
        ConfigError: the prior has no block of this number.
    """
    found: dict[str, Record] = {}
    if "score" in artifacts:
        manifest, rate = artifacts["score"].manifest, point.settings.get(ACCEPTANCE)
        suffix = "" if rate is None else f"{ACCEPTED}{float(rate)}"
        for name, protocol in manifest.protocols.items():
            at_rate = name.endswith(suffix) if suffix else ACCEPTED not in name
            base = name.removesuffix(suffix)
            # figures without sampling are of reconstructions, codes or real images: the same for every point
            if at_rate and protocol.get("sampling") and not base.endswith("_std"):
                found[base] = _figure(manifest, name, protocol)
    if "probe" in artifacts:
        manifest, block = artifacts["probe"].manifest, point.settings.get(BLOCK)
        found |= {f"{PROBED}{name}": _figure(manifest, name, given) for name, given in manifest.protocols.items()}
        if block is not None:
            accuracies = manifest.properties["accuracy_per_block"]
            if block >= len(accuracies):
                last = len(accuracies) - 1
                raise ConfigError(f"{BLOCK}={block}: the prior has {len(accuracies)} blocks, 0 to {last}")
            # the notes on how the best block was chosen are not true of this one
            rest = str(manifest.protocols["top1"].get("notes", "")).partition("; ")[2]
            notes = {"figure": BLOCK_ACCURACY, "notes": f"of one block; {rest}"}
            protocol = {**manifest.protocols["top1"], **notes}
            found[f"{PROBED}{BLOCK_ACCURACY}"] = {"value": float(accuracies[block]), "protocol": protocol}
    return found


def collect(
    sweep: Sweep, identity: str, preset: str, axes: Sequence[str], outcomes: Sequence[Outcome],
    shared: Mapping[str, Artifact], mlflow: Record,
) -> Record:  # fmt: skip
    """The content of `results.json`.

    `groups` are the points whose figures on the axes have one protocol: each has a front and a best of its own,
    because figures of different protocols do not compare. `artifacts` are all that the sweep is made of.
    """
    artifacts = [artifact for outcome in outcomes for artifact in outcome.artifacts.values()]
    evaluated = _pinned(artifacts)
    states = [outcome.status for outcome in outcomes]
    return {
        "sweep": sweep.name,
        "about": sweep.about,
        "preset": preset,
        "fingerprint": identity,
        "settings": sweep.settings,
        "varying": sweep.varying,
        "axes": list(axes),
        "best_rule": grid.best_rule(sweep.best, axes),
        "counts": {
            "points": len(states),
            **{state: states.count(state) for state in (DONE, FAILED, WAITING)},
            "artifacts": {name: len(evaluated[name]) for name in sorted(evaluated)},
        },
        "groups": [grid.rank(group, axes, sweep.best) for group in _comparable(outcomes, axes)],
        "points": [outcome.record() for outcome in outcomes],
        "artifacts": _pinned([*shared.values(), *artifacts]),
        "mlflow": mlflow,
    }


def _figure(manifest: Manifest, name: str, protocol: Mapping[str, Any]) -> Record:
    bounds = {end.removeprefix("_"): value for end, value in interval(manifest.metrics, name).items()}
    return {"value": manifest.metrics[name], **bounds, "protocol": dict(protocol)}


def _comparable(outcomes: Sequence[Outcome], axes: Sequence[str]) -> list[list[Record]]:
    """Records of points that have both figures of the axes, in groups of equal protocols."""
    names = [grid.parse_axis(text).name for text in axes]
    # an axis may be a setting that is the same for all points
    records = [outcome.record() | {"settings": outcome.point.settings} for outcome in outcomes]
    known = [record for record in records if not any(math.isnan(grid.measured(record, name)[0]) for name in names)]

    def protocols(record: Record) -> list[Record]:
        return [comparable_protocol({}, record["figures"].get(name, {}).get("protocol", {})) for name in names]

    return comparable_groups((record, protocols(record)) for record in known)


def _pinned(artifacts: Sequence[Artifact]) -> dict[str, list[Record]]:
    """Artifacts that must not be removed while these results are shown, by component, each once."""
    found: dict[str, dict[str, Record]] = {}
    for artifact in artifacts:
        manifest = artifact.manifest
        entry = {"fingerprint": manifest.fingerprint, "digest": artifact.digest, "folder": "/".join(manifest.key)}
        found.setdefault(manifest.component, {})[manifest.fingerprint] = entry
    return {component: list(entries.values()) for component, entries in found.items()}


def folder(root: str, name: str) -> str:
    """The folder of a sweep's results. Raises `ConfigError` for a name that no sweep can have."""
    if not NAME.fullmatch(name):
        raise ConfigError(f"sweep {name!r}: give the sweep's name, as its folder below {io.join(root, SWEEPS)}")
    return io.join(root, SWEEPS, name)


def names(root: str) -> list[str]:
    """Sweeps that were run in this root."""
    with store.guarded(root):
        return [
            name for name in io.list_names(io.join(root, SWEEPS)) if io.exists(io.join(root, SWEEPS, name, RESULTS))
        ]


def read(root: str, name: str) -> dict[str, Any] | None:
    """The results of a sweep so far, or None. Raises `DataError` for a damaged file."""
    uri = io.join(folder(root, name), RESULTS)
    data = store.read_bytes(root, uri)
    if data is None:
        return None
    try:
        results: dict[str, Any] = json.loads(data)
    except ValueError as error:
        raise DataError(f"{uri}: not valid JSON ({error}); remove it and run the sweep again") from error
    return results


def write(root: str, name: str, results: dict[str, Any]) -> None:
    """Replace the results of a sweep atomically."""
    with store.guarded(root):
        io.write_bytes(io.join(folder(root, name), RESULTS), (json.dumps(results, indent=1) + "\n").encode())


@contextlib.contextmanager
def lock(root: str, name: str, note: Any) -> Iterator[None]:
    """Run a sweep in one process at a time: waits while another living one runs it, `note` gets a message."""
    leases = io.join(root, usage.LEASES, SWEEPS, name)
    with store.guarded(root):
        io.make_folder(leases)
    with lease.hold(leases, note):
        yield
