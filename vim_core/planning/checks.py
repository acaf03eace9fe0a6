"""Warnings about a plan: it does not fit in memory, is inefficient, or would be refused when the training starts."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from vim_core.config import PipelineConfig, StackConfig, TrainConfig
from vim_core.errors import ConfigError
from vim_core.models.discriminator import check_stddev_group
from vim_core.planning.chips import GB, Chip
from vim_core.planning.layout import Layout
from vim_core.planning.memory import RESERVE, Memory
from vim_core.planning.networks import CLASSIFIERS, PlannedNetwork
from vim_core.tasks.quantizer import check_accumulation
from vim_core.training.accumulation import check_batch

LANES = 128
"""Rows and columns of a TPU's matrix unit (cloud.google.com/tpu/docs/performance-guide): others are padded to them."""


def plan_warnings(
    component: str,
    config: PipelineConfig,
    training: TrainConfig,
    networks: list[PlannedNetwork],
    layout: Layout,
    chip: Chip,
    memory: Memory,
) -> list[str]:
    """All warnings about one component, each with the setting that causes it."""
    warnings = list(_refusals(component, config, training, networks, layout))
    warnings += _inefficient_widths(component, config, chip)
    if memory.peak > (1 - RESERVE) * chip.memory:
        problem = "does not fit" if memory.peak > chip.memory else f"leaves less than {RESERVE:.0%} of its memory free"
        sizes = f"needs {memory.peak / GB:.1f} GB a chip, a {chip.name} has {chip.memory / GB:.1f}"
        remedy = _memory_remedy(component, memory, layout, training)
        warnings.append(f"{component}: {problem}: {sizes}; most is {memory.largest()}. {remedy}")
    return warnings


def _refusals(
    component: str, config: PipelineConfig, training: TrainConfig, networks: list[PlannedNetwork], layout: Layout
) -> Iterator[str]:
    """Errors by which the training itself would refuse the settings."""
    quantize = config.quantize
    if component == "quantize":
        yield from _error(lambda: check_accumulation(quantize, layout.chips))
        if quantize.loss.adversarial > 0 and quantize.discriminator.kind == "stylegan":
            # XLA's one program sees the global batch, a worker of FSDP2 or data parallelism its own share
            seen = training.batch // training.accumulate // (1 if layout.way == "xla" else layout.chips)
            yield from _error(lambda: check_stddev_group(quantize.discriminator.stddev_group, seen))
    else:
        yield from _error(lambda: check_batch(training, layout.chips, component))
    if component in ("quantize", "prior") and layout.way == "fsdp" and training.optim.kind == "factored":
        yield f"{component}.optim.kind='factored': takes whole parameters; with run.parallel=fsdp use adamw"
    for network in networks:
        if refusal := layout.uneven(network):
            yield f"{component}: {refusal}"


def _error(check: Callable[[], None]) -> Iterator[str]:
    try:
        check()
    except ConfigError as error:
        yield f"{error}; the training refuses it"


def _inefficient_widths(component: str, config: PipelineConfig, chip: Chip) -> Iterator[str]:
    stacks: dict[str, StackConfig] = {}
    if component == "quantize":
        stacks = {"quantize.encoder": config.quantize.encoder, "quantize.decoder": config.quantize.decoder}
    elif component == "prior":
        stacks = {"prior.stack": config.prior.stack}
    for name, stack in stacks.items():
        width = stack.dim // stack.heads
        if width % 8:
            rule = "fused attention kernels take multiples of 8"
            yield f"{name}.heads={stack.heads}: makes heads of {width} channels; {rule}"
        odd = {key: value for key, value in (("dim", stack.dim), ("mlp", stack.mlp)) if value % LANES}
        if odd and chip.axes:
            sizes = ", ".join(f"{key}={value}" for key, value in odd.items())
            yield f"{name}: {sizes} not divisible by {LANES}: {chip.name} pads every product to that"


def _memory_remedy(component: str, memory: Memory, layout: Layout, training: TrainConfig) -> str:
    if component in CLASSIFIERS:
        return f"Try a smaller {component}.batch than {training.batch}."
    if memory.largest() == "activations":
        ways = [] if component == "probe" or getattr(training, "recompute", False) else ["recompute=true"]
        ways = [f"{component}.{way}" for way in (*ways, f"accumulate above {training.accumulate}")]
        return f"Try {' or '.join(ways)}, or more chips."
    if component in ("quantize", "prior") and layout.shards < layout.chips:
        setting = "run.fsdp=0" if layout.way == "xla" else "run.parallel=fsdp"
        return f"{setting} splits weights, gradients and optimizer over all {layout.chips} chips."
    return "Try more chips, or ones with more memory."
