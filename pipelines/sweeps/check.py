"""A sweep against its preset, before anything runs: every point's settings, and what its components would refuse."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from components.contract import agreement, settings
from components.tradeoff.grid import ACCEPTANCE, Point
from pipelines.sweeps import spec
from pipelines.sweeps.spec import BLOCK, SPECIAL, Sweep
from vim_core.config import PipelineConfig
from vim_core.errors import ConfigError

SHOWN = 4
"""Points that a message names for one reason."""


def check_sweep(sweep: Sweep, config: PipelineConfig) -> None:
    """Raise `ConfigError` with every point that cannot be evaluated on this preset, by reason."""
    if not sweep.axes and "statistics" not in config.components:
        raise ConfigError("axes=[]: the preset has no statistics, so samples have no distance; name two axes")
    # Checkpoints are another matter: which there are is known when they are looked for.
    points = spec.expand(sweep, [1])
    reasons: dict[str, list[str]] = {}
    for point in points:
        for reason in _problems(point, sweep, config):
            reasons.setdefault(reason, []).append(point.label or f"point {point.number}")
    if not reasons:
        return
    bad = {label for labels in reasons.values() for label in labels}
    texts = []
    for reason, labels in reasons.items():
        more = f" and {len(labels) - SHOWN} more" if len(labels) > SHOWN else ""
        texts.append(f"{reason} ({' | '.join(labels[:SHOWN])}{more})")
    rule = f"{len(bad)} of {len(points)} points do not suit the preset {config.preset}, and nothing was started"
    raise ConfigError(f"sweep {sweep.name}: {rule}: {'; '.join(texts)}")


def _problems(point: Point, sweep: Sweep, config: PipelineConfig) -> Iterator[str]:
    given = point.settings
    try:
        changed = settings.with_values(config, {key: value for key, value in given.items() if key not in SPECIAL})
    except ConfigError as error:
        yield str(error)
        return
    names = sweep.components(ACCEPTANCE in given)
    missing = [name for name in names if name not in config.components]
    if missing:
        yield f"needs {', '.join(missing)}, which the preset does not have"
    if ACCEPTANCE in given and not config.ingest.labelled:
        yield f"{ACCEPTANCE}={given[ACCEPTANCE]}: samples are accepted by class, and ingest.labelled=false"
    if (block := given.get(BLOCK, 0)) >= config.prior.stack.blocks:
        yield f"{BLOCK}={block}: the prior has {config.prior.stack.blocks} blocks, from 0"
    included = [name for name in config.components if name != "select" or ACCEPTANCE in given]
    yield from agreement.problems(dataclasses.replace(changed, components=included), names)
