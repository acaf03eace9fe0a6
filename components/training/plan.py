"""A preset's plan for a TPU slice or GPUs: chips from the settings, MFU from the user or a benchmark's record."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from components.engines import topology
from vim_core.config import PipelineConfig, RunConfig
from vim_core.errors import ConfigError
from vim_core.storage import io

if TYPE_CHECKING:
    from vim_core.planning.chips import Chip
    from vim_core.planning.plan import PresetPlan

MEASURED = "MFU of the VIM-"
"""Beginning of the rows of `tests/benchmarks/results/stage2_mfu-*.json`; their ratio is the prior's MFU."""


def make_plan(
    config: PipelineConfig,
    mfu: str = "",
    price: float | None = None,
    images: int | None = None,
    classes: int | None = None,
    bytes_per_image: float | None = None,
    rates: Sequence[str] = (),
) -> PresetPlan:
    """The plan of a preset on the chips that `run.topology`, `run.accelerator` and `run.workers` name.

    Args:
        config: the preset.
        mfu: '' for none, a share of the peak for all trainings, or a benchmark's record (JSON) for the prior.
        price: of a chip's hour.
        images, classes, bytes_per_image: of the data, if it is not a known data set.
        rates: 'component=images a second' of components that do not train.

    Raises:
        ConfigError: a malformed topology, an unknown chip, or a number out of its range.
    """
    from vim_core.planning import plan

    chip = find_chip(config.run)
    shares, origin = _parse_mfu(mfu, plan.COMPONENTS)
    _check_positive({"--price": price, "--images": images, "--classes": classes, "--bytes-per-image": bytes_per_image})
    inputs = plan.PlanInputs(shares, origin, price, images, classes, bytes_per_image, _parse_rates(rates, plan.RATED))
    return plan.plan_preset(config, chip, chip_count(config.run), inputs)


def find_chip(run: RunConfig) -> Chip:
    """The chip of `run.accelerator`, or with `run.device=cpu` this machine's memory, shared by its workers.

    Raises:
        ConfigError: there is no such accelerator.
    """
    from vim_core.planning import chips

    if run.device != "cpu":
        return chips.find_chip(run.accelerator)
    import psutil

    return chips.Chip("CPU worker", psutil.virtual_memory().total / run.workers, None)


def chip_count(run: RunConfig) -> int:
    """Number of chips: those of the slices, or one GPU a worker.

    Of TPUs `run.workers=1`, the default, means one slice; other numbers have to fill whole v4 slices.

    Raises:
        ConfigError: there is no topology for TPUs or one for GPUs, it is malformed, or workers do not fill slices.
    """
    from vim_core.planning import chips

    chip = find_chip(run)
    if not chip.axes:
        return chips.count_chips(run.topology, chip) if run.topology else run.workers
    if not run.topology:
        raise ConfigError(f"run.topology='': {chip.name} comes in slices; give --topology, such as 4x4x4")
    if run.accelerator.upper() != topology.ACCELERATOR:
        if run.workers > 1:
            raise ConfigError(f"run.workers={run.workers}: of {chip.name} one slice is planned; leave it at 1")
        return chips.count_chips(run.topology, chip)
    if run.workers == 1:
        return topology.parse(run.topology).chips
    tpu_slice, slices = topology.resolve_slices(run)
    return tpu_slice.chips * slices


def _parse_mfu(text: str, components: Sequence[str]) -> tuple[dict[str, float], str]:
    """MFU by component, and its origin for the plan: a number holds for all, a benchmark's record for the prior.

    Of a record it is that of the largest model, which comes last.
    """
    if not text:
        return {}, ""
    with contextlib.suppress(ValueError):
        share = float(text)
        if not 0 < share <= 1:
            raise ConfigError(f"--mfu={text}: is a share of the peak, in (0, 1]")
        return dict.fromkeys(components, share), f"given: --mfu {text}, for every training"
    try:
        rows = json.loads(io.read_bytes(text))
    except (OSError, ValueError) as error:
        raise ConfigError(f"--mfu={text!r}: neither a number nor a benchmark's record: {error}") from error
    rows = [row for row in rows if isinstance(row, dict) and str(row.get("name", "")).startswith(MEASURED)]
    ratios = [row["ratio"] for row in rows if isinstance(row.get("ratio"), float)]
    if not ratios:
        raise ConfigError(f"--mfu={text!r}: no row that begins with {MEASURED!r} was measured; give a number")
    return {"prior": float(ratios[-1])}, f"measured: {text}"


def _check_positive(numbers: dict[str, float | int | None]) -> None:
    for name, value in numbers.items():
        if value is not None and not (math.isfinite(value) and value > 0):
            raise ConfigError(f"{name}={value}: must be positive")


def _parse_rates(words: Sequence[str], components: Sequence[str]) -> dict[str, float]:
    """Texts such as 'sample=120' as numbers by component."""
    rates = {}
    for word in words:
        name, _, text = word.partition("=")
        try:
            rates[name] = float(text)
        except ValueError:
            raise ConfigError(f"--rate {word}: write component=images a second, such as sample=120") from None
        if name not in components:
            raise ConfigError(f"--rate {word}: rates are of {', '.join(components)}")
        _check_positive({f"--rate {name}": rates[name]})
    return rates
