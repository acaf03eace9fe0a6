"""The whole plan of a preset on so many chips."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from vim_core.config import PipelineConfig
from vim_core.errors import ConfigError
from vim_core.planning import checks, memory, storage, work
from vim_core.planning.activations import Numbers
from vim_core.planning.chips import Chip
from vim_core.planning.layout import Layout
from vim_core.planning.memory import Memory, Step
from vim_core.planning.networks import CLASSIFIERS, parts_of

COMPONENTS = ("classify", "selector", "quantize", "prior", "probe")
"""Those that train, in the order of the flow."""
RATED = ("ingest", "statistics", "tokenize", "reconstruct", "sample")
"""Those that take time by images a second."""

MODEL = (
    "bytes on a chip are modelled: within 15 % of measured steps of tiny networks on a CPU, checked on no accelerator"
)


@dataclass(frozen=True)
class Asked:
    """What settings do not say.

    mfu: share of the chips' peak by component, where known; `mfu_from` says how it is known.
    price: of a chip's hour in the user's money.
    images, classes: of the data set, where `storage.dataset` does not know it.
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
class Component:
    """A training component: sizes in bytes a chip, counts a step, operations; `time` where MFU is known."""

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
    time: work.Time | None
    checkpoints: int
    checkpoint_bytes: float
    warnings: list[str]


@dataclass(frozen=True)
class Plan:
    """`tables` in bytes and `hours` of rated components by name, None where unknown; `notes` say what was assumed."""

    preset: str
    chip: Chip
    chips: int
    way: str
    components: list[Component]
    tables: dict[str, float | None]
    hours: dict[str, float | None]
    mfu_from: str
    notes: list[str]

    @property
    def warnings(self) -> list[str]:
        """Of all components."""
        return [warning for component in self.components for warning in component.warnings]


def plan(config: PipelineConfig, chip: Chip, chips: int, asked: Asked) -> Plan:
    """What the preset's components need on so many chips.

    Raises:
        ConfigError: `run.fsdp` does not divide the chips, or a network cannot be built.
    """
    known, notes = _dataset(config, asked)
    layout = layout_of(config, chip, chips)
    made = [_component(name, config, chip, layout, asked, known) for name in COMPONENTS if name in config.components]
    small = [each.name for each in made if each.name in CLASSIFIERS]
    if small:
        notes.append(f"{' and '.join(small)}: trained in the process that runs the pipeline, planned for one chip")
    if any(each.precision == "fp32" and each.time for each in made):
        notes.append("hours in fp32 hold only for an MFU measured in fp32: the peak is that of bf16")
    notes.append(MODEL)
    tables, hours = _tables(config, known, asked), _hours(config, known, asked)
    return Plan(config.preset, chip, chips, layout.way, made, tables, hours, asked.mfu_from, notes)


def layout_of(config: PipelineConfig, chip: Chip, chips: int) -> Layout:
    """How quantize and prior are split over the chips.

    Raises:
        ConfigError: `run.fsdp` does not divide them.
    """
    run = config.run
    if not chip.axes:
        sharded = run.parallel == "fsdp" and chips > 1
        return Layout("fsdp" if sharded else "data", chips, chips if sharded else 1)
    shards = run.fsdp or chips
    if chips % shards:
        raise ConfigError(f"run.fsdp={run.fsdp}: does not divide the {chips} XLA devices")
    return Layout("xla", chips, shards)


def _dataset(config: PipelineConfig, asked: Asked) -> tuple[storage.Dataset, list[str]]:
    """Images and classes, given or known; 0 images where neither."""
    notes = []
    known = storage.dataset(config)
    if asked.images is not None:
        train, test = asked.images, 0
    elif known is None:
        train = test = 0
        notes.append(f"number of images of ingest.source={config.ingest.source!r} unknown: give --images")
    else:
        train, test = known.train, known.test
    if asked.classes is not None:
        classes = asked.classes
    elif config.ingest.classes or not config.ingest.labelled:
        classes = len(config.ingest.classes)
    elif known is not None:
        classes = known.classes
    else:
        classes = 1000
        notes.append(f"classes of ingest.source={config.ingest.source!r} unknown, 1000 taken: give --classes")
    return storage.Dataset(train, test, classes), notes


def _component(
    name: str, config: PipelineConfig, chip: Chip, layout: Layout, asked: Asked, known: storage.Dataset
) -> Component:
    training = work.settings(name, config)
    layout = Layout("data", 1, 1) if name in CLASSIFIERS else layout
    # All of these chips are fast at bf16, so that is what `auto` means on them.
    precision = "fp32" if training.precision == "fp32" else "bf16"
    images = -(-training.batch // (layout.chips * training.accumulate))
    numbers = Numbers(4 if precision == "fp32" else 2)
    step = Step(images, training.accumulate, numbers, bool(getattr(training, "recompute", False)))
    parts = parts_of(name, config, known.classes)
    used = needed(name, config, layout, step, known.classes)
    operations = work.step_flops(name, config, known.classes)
    mfu = asked.mfu.get(name)
    total = sum(operations.values())
    count, size = work.checkpoints(parts, training)
    return Component(
        name=name,
        parameters={part.name: part.parameters for part in parts if part.parameters},
        chips=layout.chips,
        shards=layout.shards,
        precision=precision,
        memory=used,
        batch=training.batch,
        images_a_chip=images,
        tokens=0 if name in CLASSIFIERS else training.batch * _tokens(config),
        steps=training.steps,
        epochs=training.steps * training.batch / known.train if known.train else None,
        flops=dict(operations),
        mfu=mfu,
        time=work.time(total, training.steps, layout.chips, chip.peak, mfu, asked.price) if mfu else None,
        checkpoints=count,
        checkpoint_bytes=size,
        warnings=checks.found(name, config, training, parts, layout, chip, used),
    )


def needed(name: str, config: PipelineConfig, layout: Layout, step: Step, classes: int) -> Memory:
    """Bytes on a chip of one training component."""
    parts = parts_of(name, config, classes)
    if name == "quantize":
        return memory.quantize(config, parts, layout, step)
    if name == "prior":
        return memory.prior(config, parts, layout, step)
    if name == "probe":
        return memory.probe(config, parts, layout, step, classes)
    return memory.classify(getattr(config, name), parts, layout, step, classes)


def _tokens(config: PipelineConfig) -> int:
    return (config.quantize.image_size // config.quantize.patch) ** 2


def _tables(config: PipelineConfig, known: storage.Dataset, asked: Asked) -> dict[str, float | None]:
    images, found = known.train + known.test, {}
    if "ingest" in config.components:
        found["image table"] = storage.image_table(config, images, asked.bytes_per_image) if images else None
    if "tokenize" in config.components:
        found["code table"] = storage.code_table(config, known.train, known.test) if images else None
    return found


def _hours(config: PipelineConfig, known: storage.Dataset, asked: Asked) -> dict[str, float | None]:
    counts = {
        "ingest": known.train + known.test,
        "statistics": known.test if config.statistics.split == "test" else known.train,
        "tokenize": known.train * config.tokenize.views + known.test,
        "reconstruct": min(known.test, config.reconstruct.limit or known.test),
        "sample": config.sample.count,
    }
    named = [name for name in RATED if name in config.components]
    rated = {name: asked.rates.get(name) for name in named}
    return {name: counts[name] / rate / 3600 if rate and counts[name] else None for name, rate in rated.items()}
