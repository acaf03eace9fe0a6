"""The figures of one point, taken from the manifests of what its cell made."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from components.contract.api import Artifact, Manifest
from components.report.results import ACCEPTED, BOUNDS
from pipelines.sweeps.grid import Point
from pipelines.sweeps.spec import ACCEPTANCE, BLOCK, PROBED
from vim_core.errors import ConfigError

BY_BLOCK = "accuracy"
"""What the accuracy of one block of the probe is called."""

Figure = dict[str, Any]
"""`value`, with `low` and `high` where there is an interval, and `protocol`."""


def of_point(point: Point, made: Mapping[str, Artifact]) -> dict[str, Figure]:
    """Figures by name: those of the generated images as `score` calls them, those of the probe after 'probe.'.

    Raises:
        ConfigError: the prior has no block of this number.
    """
    found: dict[str, Figure] = {}
    if "score" in made:
        found |= _of_images(made["score"].manifest, point.settings.get(ACCEPTANCE))
    if "probe" in made:
        found |= _of_probe(made["probe"].manifest, point.settings.get(BLOCK))
    return found


def _of_images(manifest: Manifest, rate: float | None) -> dict[str, Figure]:
    end = "" if rate is None else f"{ACCEPTED}{float(rate)}"
    found = {}
    for name, protocol in manifest.protocols.items():
        ours = name.endswith(end) if end else ACCEPTED not in name
        # Figures that know no sampling are of reconstructions, codes or real images: the same for every point.
        if ours and protocol.get("sampling") and not name.removesuffix(end).endswith("_std"):
            found[name.removesuffix(end)] = _figure(manifest, name, protocol)
    return found


def _of_probe(manifest: Manifest, block: int | None) -> dict[str, Figure]:
    protocols = manifest.protocols
    found = {f"{PROBED}{name}": _figure(manifest, name, protocol) for name, protocol in protocols.items()}
    if block is None:
        return found
    blocks = manifest.properties["accuracy_per_block"]
    if block >= len(blocks):
        raise ConfigError(f"{BLOCK}={block}: the prior has {len(blocks)} blocks, 0 to {len(blocks) - 1}")
    # What is said of the best block is not true of this one.
    rest = str(protocols["top1"].get("notes", "")).partition("; ")[2]
    protocol = {**protocols["top1"], "figure": BY_BLOCK, "notes": f"of one block; {rest}"}
    return {f"{PROBED}{BY_BLOCK}": {"value": float(blocks[block]), "protocol": protocol}}


def _figure(manifest: Manifest, name: str, protocol: Mapping[str, Any]) -> Figure:
    ends = {end.removeprefix("_"): manifest.metrics.get(f"{name}{end}") for end in BOUNDS}
    bounds = {end: value for end, value in ends.items() if value is not None}
    return {"value": manifest.metrics[name], **bounds, "protocol": dict(protocol)}
