"""The plan of a preset on a number of chips: memory, operations, hours, storage and warnings of every component."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from vim_core.config import PipelineConfig, StackConfig, TrainConfig
from vim_core.errors import ConfigError
from vim_core.layers.chunked_attention import CHUNK_ROWS
from vim_core.models.discriminator import check_stddev_group
from vim_core.planning import costs
from vim_core.planning.activations import ElementSizes
from vim_core.planning.chips import GB, Chip
from vim_core.planning.memory import RESERVE, Memory, StepShape, component_memory, sampling
from vim_core.planning.networks import CLASSIFIERS, Layout, PlannedNetwork, planned_networks
from vim_core.tasks.quantizer import check_accumulation
from vim_core.training.accumulation import check_batch

COMPONENTS = ("classify", "selector", "quantize", "prior", "probe")
"""Training components, in the order of the flow."""
RATED = ("ingest", "statistics", "tokenize", "reconstruct", "sample")
"""Components whose time is given by a rate in images a second."""
LANES = 128
"""Rows and columns of a TPU's matrix unit (cloud.google.com/tpu/docs/performance-guide): others are padded to them."""

MODEL = "bytes on a chip are modelled: within 4 % of counted steps at ImageNet's sizes, checked on no accelerator"


@dataclass(frozen=True)
class PlanInputs:
    """Facts that a plan needs beside the settings.

    Attributes:
        mfu: share of the chips' peak by component, where known.
        mfu_from: source of `mfu`, in words.
        price: of a chip's hour in the user's money.
        images, classes: of the data set, where `costs.known_dataset` has no entry for it.
        bytes_per_image: of the image table.
        rates: images a second of a component, all its workers together.
    """

    mfu: Mapping[str, float] = field(default_factory=dict)
    mfu_from: str = ""
    price: float | None = None
    images: int | None = None
    classes: int | None = None
    bytes_per_image: float | None = None
    rates: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class ComponentPlan:
    """Plan of a training component: bytes on a chip, counts and operations per step; `time` where MFU is known."""

    name: str
    parameters: dict[str, int]
    chips: int
    shards: int
    precision: str
    memory: Memory
    batch: int
    images_a_chip: int
    tokens: int
    steps: int
    epochs: float | None
    flops: dict[str, float]
    mfu: float | None
    time: costs.Time | None
    checkpoints: int
    checkpoint_bytes: float
    warnings: list[str]


@dataclass(frozen=True)
class PresetPlan:
    """Plan of a preset: `tables` in bytes, `hours` of rated components, None where unknown; `notes` are assumptions.

    `sampling` are warnings of the component `sample`.
    """

    preset: str
    chip: Chip
    chips: int
    way: str
    components: list[ComponentPlan]
    tables: dict[str, float | None]
    hours: dict[str, float | None]
    mfu_from: str
    notes: list[str]
    sampling: list[str] = field(default_factory=list)

    @property
    def warnings(self) -> list[str]:
        """Warnings of all trainings, then those of `sample`."""
        return [*(warning for component in self.components for warning in component.warnings), *self.sampling]


def plan_preset(config: PipelineConfig, chip: Chip, chips: int, inputs: PlanInputs) -> PresetPlan:
    """Needs of the preset's components on a number of chips.

    Raises:
        ConfigError: `run.fsdp` does not divide the chips, or a network cannot be built.
    """
    data, notes = _dataset(config, inputs)
    run = config.run
    if chip.axes:
        shards = run.fsdp or chips
        if chips % shards:
            raise ConfigError(f"run.fsdp={run.fsdp}: does not divide the {chips} XLA devices")
        layout = Layout("xla", chips, shards)
    elif run.parallel == "fsdp" and chips > 1:
        shards = run.fsdp or chips
        if chips % shards:
            raise ConfigError(f"run.fsdp={run.fsdp}: does not divide the {chips} workers")
        layout = Layout("fsdp", chips, shards)
    else:
        layout = Layout("data", chips, 1)
    plans = [_plan(name, config, chip, layout, inputs, data) for name in COMPONENTS if name in config.components]
    small = [plan.name for plan in plans if plan.name in CLASSIFIERS]
    if small:
        notes.append(f"{' and '.join(small)}: trained in the process that runs the pipeline, planned for one chip")
    if any(plan.mfu and plan.time is None for plan in plans):
        notes.append(f"no hours: a {chip.name} has no published rate of these products")
    notes.append(MODEL)
    images, tables = data.train + data.test, dict[str, float | None]()
    if "ingest" in config.components:
        tables["image table"] = costs.image_table_bytes(config, images, inputs.bytes_per_image) if images else None
    if "tokenize" in config.components:
        tables["code table"] = costs.code_table_bytes(config, data.train, data.test) if images else None
    hours = _hours(config, data, inputs)
    warnings = []
    if "sample" in config.components and (needed := sampling(config, data.classes)) > (1 - RESERVE) * chip.memory:
        rule = f"{needed / GB:.1f} GB a chip, a {chip.name} has {chip.memory / GB:.1f}; take fewer lanes or bf16"
        warnings.append(f"sample.lanes={config.sample.lanes}, sample.precision={config.sample.precision}: need {rule}")
    return PresetPlan(config.preset, chip, chips, layout.way, plans, tables, hours, inputs.mfu_from, notes, warnings)


def _dataset(config: PipelineConfig, inputs: PlanInputs) -> tuple[costs.Dataset, list[str]]:
    """Images and classes, given or known, with notes on what is assumed; 0 images where neither."""
    notes = []
    known = costs.known_dataset(config)
    if inputs.images is not None:
        train, test = inputs.images, 0
    elif known is None:
        train = test = 0
        notes.append(f"number of images of ingest.source={config.ingest.source!r} unknown: give --images")
    else:
        train, test = known.train, known.test
    if inputs.classes is not None:
        classes = inputs.classes
    elif config.ingest.classes or not config.ingest.labelled:
        classes = len(config.ingest.classes)
    elif known is not None:
        classes = known.classes
    else:
        classes = 1000
        notes.append(f"classes of ingest.source={config.ingest.source!r} unknown, 1000 taken: give --classes")
    return costs.Dataset(train, test, classes), notes


def _plan(
    name: str, config: PipelineConfig, chip: Chip, layout: Layout, inputs: PlanInputs, data: costs.Dataset
) -> ComponentPlan:
    training: TrainConfig = getattr(config, name)
    layout = Layout("data", 1, 1) if name in CLASSIFIERS else layout
    precision = _precision(training.precision, chip)
    images = -(-training.batch // (layout.chips * training.accumulate))
    rows = CHUNK_ROWS if layout.way == "xla" else 0
    sizes = ElementSizes(2 if precision == "bf16" else 4, config.run.device == "cpu", rows)
    step = StepShape(images, training.accumulate, sizes, bool(getattr(training, "recompute", False)))
    networks = planned_networks(name, config, data.classes)
    memory = component_memory(name, config, networks, layout, step, data.classes)
    warnings = [*_refusals(name, config, training, networks, layout), *_inefficient_widths(name, config, chip)]
    if memory.peak > (1 - RESERVE) * chip.memory:
        problem = "does not fit" if memory.peak > chip.memory else f"leaves less than {RESERVE:.0%} of its memory free"
        needed = f"needs {memory.peak / GB:.1f} GB a chip, a {chip.name} has {chip.memory / GB:.1f}"
        remedy = _memory_remedy(name, memory, layout, training)
        warnings.append(f"{name}: {problem}: {needed}; most is {memory.largest()}. {remedy}")
    flops, mfu, time = costs.step_flops(name, config, data.classes), inputs.mfu.get(name), None
    peak = chip.peak(precision)
    if mfu and peak:
        hours = sum(flops.values()) * training.steps / (layout.chips * peak * mfu) / 3600
        chip_hours = hours * layout.chips
        time = costs.Time(hours, chip_hours, None if inputs.price is None else chip_hours * inputs.price)
    checkpoints, checkpoint_bytes = costs.checkpoint_count_and_bytes(networks, training)
    tokens = (config.quantize.image_size // config.quantize.patch) ** 2
    return ComponentPlan(
        name=name,
        parameters={network.name: network.parameters for network in networks if network.parameters},
        chips=layout.chips,
        shards=layout.shards,
        precision=precision,
        memory=memory,
        batch=training.batch,
        images_a_chip=images,
        tokens=0 if name in CLASSIFIERS else training.batch * tokens,
        steps=training.steps,
        epochs=training.steps * training.batch / data.train if data.train else None,
        flops=dict(flops),
        mfu=mfu,
        time=time,
        checkpoints=checkpoints,
        checkpoint_bytes=checkpoint_bytes,
        warnings=warnings,
    )


def _precision(setting: str, chip: Chip) -> str:
    """The type of the products on a chip: 'bf16', 'tf32' (three passes of bf16 on TPUs) or 'fp32'."""
    if setting == "auto":
        return "fp32" if chip.bf16 is None else "bf16"
    return {"highest": "fp32", "high": "tf32"}.get(setting, setting)


def _hours(config: PipelineConfig, data: costs.Dataset, inputs: PlanInputs) -> dict[str, float | None]:
    counts = {
        "ingest": data.train + data.test,
        "statistics": data.test if config.statistics.split == "test" else data.train,
        "tokenize": data.train * config.tokenize.views + data.test,
        "reconstruct": min(data.test, config.reconstruct.limit or data.test),
        "sample": config.sample.count,
    }
    names = [name for name in RATED if name in config.components]
    rates = {name: inputs.rates.get(name) for name in names}
    return {name: counts[name] / rate / 3600 if rate and counts[name] else None for name, rate in rates.items()}


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
