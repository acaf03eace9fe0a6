"""Operations, hours and money of a training; bytes of its checkpoints and of the image and code tables."""

from __future__ import annotations

from dataclasses import dataclass

from vim_core.config import ClassifyConfig, PipelineConfig, ProbeConfig, TrainConfig
from vim_core.models.prior import PriorShape
from vim_core.planning.activations import classifier_widths
from vim_core.planning.networks import Layout, PlannedNetwork, has_perceptual, prior_shape
from vim_core.tasks.probe_heads import FITS
from vim_core.training import flops

UNSPLIT = Layout("data", 1, 1)
"""A checkpoint has one copy of everything, however the training was split."""

MB = 1e6
IMAGES_PER_MB = 9.932
"""Image table of original ImageNet JPEGs: tests/benchmarks/results/imagenet_rates-cpu.json, 'image table'."""
CODED_PER_MB = 427.9
"""Code table of 1,024 codes among 8,192 an image, uniform: the same file, 'code table, uniform random codes'."""
CODES = 1024

IMAGENET = "data/imagenet"
DIGITS = "builtin:digits"


@dataclass(frozen=True)
class Dataset:
    """Images of either split, and classes (0: none)."""

    train: int
    test: int
    classes: int


KNOWN = {
    IMAGENET: Dataset(1_281_167, 50_000, 1000),
    "data/celebahq": Dataset(25_000, 5_000, 0),
    "data/ffhq": Dataset(60_000, 10_000, 0),
}
"""By the `ingest.source` of the presets: ILSVRC 2012; taming-transformers' splits of CelebA-HQ and FFHQ."""
UNDIVIDED = {DIGITS: (1_797, 10), "data/tiny-imagenet-200/train": (100_000, 200)}
"""Images and classes of sources of which `ingest.test_fraction` is held out: scikit-learn's digits, CS231n's."""


@dataclass(frozen=True)
class Time:
    """Hours of wall clock, chip hours, and money where a price is known."""

    hours: float
    chip_hours: float
    cost: float | None


def step_flops(component: str, config: PipelineConfig, classes: int) -> flops.FlopsByPart:
    """Counted operations of one step over the global batch, by part; recomputation is not among them."""
    if component == "quantize":
        return flops.quantizer_step(config.quantize, has_perceptual(config.quantize))
    shape = prior_shape(config.prior, config.quantize, classes)
    if component == "prior":
        encoded = config.quantize if config.prior.source == "images" else None
        return flops.prior_step(shape, config.prior.batch, tokenizer=encoded)
    if component == "probe":
        return probe_step(config.probe, shape, classes)
    own: ClassifyConfig = getattr(config, component)
    layers = [flops.convolution(side, 3, inputs, outputs) for inputs, outputs, side in classifier_widths(own)]
    last = flops.linear(1, own.width * 4, own.features) + flops.linear(1, own.features, classes)
    # forward and backward pass; images need no gradient
    return {"classifier": own.batch * (3 * (sum(layers) + last) - layers[0])}


def probe_step(config: ProbeConfig, shape: PriorShape, classes: int) -> flops.FlopsByPart:
    """Frozen features of every block, and the heads' logits and gradients; sums of the first epoch are left out."""
    tokens, stack = shape.tokens + 1, shape.stack
    features = flops.stack(stack, tokens, "causal", shape.variant)
    columns = FITS * len(config.learning_rates) * len(config.weight_decays) * classes
    widths = [stack.dim] * stack.blocks + ([3 * config.pixels**2] if config.pixels else [])
    heads = sum(2 * flops.linear(config.batch, width + 1, columns) for width in widths)
    # Two triangular solves with the Cholesky factor, width^2 a column each.
    solves = sum(2.0 * width * width * columns for width in widths) if config.decorrelate else 0.0
    return {"features": config.batch * features, "heads": heads + solves}


def checkpoint_count_and_bytes(parts: list[PlannedNetwork], config: TrainConfig) -> tuple[int, float]:
    """The most checkpoints that are on disk at once, including one being written, and their bytes together.

    One has the networks that learn, their averages and optimizers, and heads and sums of a probe.
    """
    count = min(config.keep + 1 + bool(config.best), max(1, -(-config.steps // config.checkpoint_every)))
    size = 0.0
    for part in parts:
        if part.optim is None:
            size += UNSPLIT.buffers(part) if part.name == "heads" else 0.0
            continue
        network = 4.0 * part.parameters + UNSPLIT.buffers(part)
        size += network * (2 if part.average else 1) + UNSPLIT.slots(part)
    return count, count * size


def known_dataset(config: PipelineConfig) -> Dataset | None:
    """Images and classes of `ingest.source`; None where they are unknown."""
    ingest = config.ingest
    if ingest.source in KNOWN:
        known = KNOWN[ingest.source]
    elif ingest.source in UNDIVIDED:
        images, classes = UNDIVIDED[ingest.source]
        images = min(images, ingest.limit) if ingest.limit else images
        test = round(images * ingest.test_fraction)
        known = Dataset(images - test, test, classes)
    else:
        return None
    return known if ingest.labelled else Dataset(known.train, known.test, 0)


def image_table_bytes(config: PipelineConfig, images: int, bytes_per_image: float | None = None) -> float | None:
    """Bytes of the image table; None where they are neither given nor measured for such images."""
    if bytes_per_image is not None:
        return images * bytes_per_image
    measured = config.ingest.source == IMAGENET and config.ingest.resize == 0
    return images * MB / IMAGES_PER_MB if measured else None


def code_table_bytes(config: PipelineConfig, train: int, test: int) -> float:
    """Bytes of the code table: all configured views of training images, one of the others.

    Bytes per code are those measured for a vocabulary of 8,192 in two bytes each; others compress slightly differently.
    """
    tokens = (config.quantize.image_size // config.quantize.patch) ** 2
    rows = train * config.tokenize.views + test
    return rows * tokens * MB / CODED_PER_MB / CODES
