"""What speaks against a plan: it does not fit, does not come out even, or would be refused when it starts."""

from __future__ import annotations

from collections.abc import Iterator

from vim_core.config import DiscriminatorConfig, PipelineConfig, StackConfig, TrainConfig
from vim_core.planning.chips import GB, Chip
from vim_core.planning.layout import Layout
from vim_core.planning.memory import RESERVE, Memory
from vim_core.planning.networks import CLASSIFIERS, Part

LANES = 128
"""Rows and columns of a TPU's matrix unit (cloud.google.com/tpu/docs/performance-guide): others are padded to them."""


def found(
    component: str,
    config: PipelineConfig,
    training: TrainConfig,
    parts: list[Part],
    layout: Layout,
    chip: Chip,
    memory: Memory,
) -> list[str]:
    """Every objection to one component, in words that name the setting."""  # fmt: skip
    said = [*_even(component, training, layout), *_refused(component, config, training, layout)]
    said += [f"{component}: {why}" for part in parts if (why := layout.uneven(part))]
    said += list(_widths(component, config, chip))
    return said + list(_memory(component, memory, chip, layout, training))


def _memory(component: str, memory: Memory, chip: Chip, layout: Layout, training: TrainConfig) -> Iterator[str]:
    if memory.peak <= (1 - RESERVE) * chip.memory:
        return
    words = "does not fit" if memory.peak > chip.memory else f"leaves less than {RESERVE:.0%} of its memory free"
    sizes = f"needs {memory.peak / GB:.1f} GB a chip, a {chip.name} has {chip.memory / GB:.1f}"
    yield f"{component}: {words}: {sizes}; most is {memory.largest()}. {_way_out(component, memory, layout, training)}"


def _way_out(component: str, memory: Memory, layout: Layout, training: TrainConfig) -> str:
    if component in CLASSIFIERS:
        return f"Try a smaller {component}.batch than {training.batch}."
    if memory.largest() == "activations":
        ways = [] if component == "probe" or getattr(training, "recompute", False) else ["recompute=true"]
        ways = [f"{component}.{way}" for way in (*ways, f"accumulate above {training.accumulate}")]
        return f"Try {' or '.join(ways)}, or more chips."
    if component in ("quantize", "prior") and layout.shards < layout.chips:
        how = "run.fsdp=0" if layout.way == "xla" else "run.parallel=fsdp"
        return f"{how} splits weights, gradients and optimizer over all {layout.chips} chips."
    return "Try more chips, or ones with more memory."


def _even(component: str, training: TrainConfig, layout: Layout) -> Iterator[str]:
    parts = layout.chips * training.accumulate
    if training.batch % layout.chips:
        yield f"{component}.batch={training.batch}: not divisible by {layout.chips} chips; the training refuses it"
    elif training.batch % parts:
        rule = f"with {layout.chips} chips it makes {parts} parts, which do not divide batch={training.batch}"
        yield f"{component}.accumulate={training.accumulate}: {rule}; the training refuses it"


def _refused(component: str, config: PipelineConfig, training: TrainConfig, layout: Layout) -> Iterator[str]:
    if component in ("quantize", "prior") and layout.way == "fsdp" and training.optim.kind == "factored":
        yield f"{component}.optim.kind='factored': takes whole parameters; with run.parallel=fsdp use adamw"
    if component != "quantize":
        return
    if training.accumulate > 1 and config.quantize.codebook.entropy.weight > 0:
        yield f"quantize.accumulate={training.accumulate}: the entropy term is of the whole batch; use 1"
    if config.quantize.loss.adversarial > 0 and config.quantize.discriminator.kind == "stylegan":
        yield from _groups(config.quantize.discriminator, training, layout)


def _groups(discriminator: DiscriminatorConfig, training: TrainConfig, layout: Layout) -> Iterator[str]:
    # One program over all chips sees the global batch, workers of FSDP2 or data parallelism their own share.
    seen = training.batch // training.accumulate // (1 if layout.way == "xla" else layout.chips)
    if seen % discriminator.stddev_group:
        rule = f"does not divide the {seen} images that a worker's discriminator sees at a time"
        yield f"quantize.discriminator.stddev_group={discriminator.stddev_group}: {rule}"


def _widths(component: str, config: PipelineConfig, chip: Chip) -> Iterator[str]:
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
