"""Bytes on one chip at the fullest moment of a training step.

State that stays from step to step is counted tensor by tensor: weights, gradients (they live until the next step clears
them), optimizer slots, the average, frozen networks. On top comes the largest of three moments: the end of the forward
pass (activations; gradients only when an earlier microbatch left some), the end of the backward pass (all gradients,
the rest of one block), and the update (temporaries of the factored Adam).

Not counted: the framework and its compiled programs, fragmentation, prefetched batches, pictures and evaluations
between steps. `RESERVE` of a chip's memory is left for them.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from torch import nn

from vim_core.config import PipelineConfig
from vim_core.planning import activations
from vim_core.planning.activations import FP32, Activations, ElementSizes
from vim_core.planning.networks import (
    Layout,
    PlannedNetwork,
    has_perceptual,
    largest_block,
    prior_networks,
    prior_shape,
)
from vim_core.tasks.probe_heads import FITS

RESERVE = 0.08
"""Share of a chip's memory that a plan leaves free."""
FACTORED = 20.0
"""Bytes per value of the largest matrix while the factored Adam updates it: moment, update and three temporaries."""


@dataclass(frozen=True)
class Memory:
    """Bytes on one chip by purpose; `peak` is the maximum at any time, which is less than the sum of the others."""

    weights: float = 0.0
    gradients: float = 0.0
    optimizer: float = 0.0
    average: float = 0.0
    frozen: float = 0.0
    activations: float = 0.0
    working: float = 0.0
    peak: float = 0.0

    def largest(self) -> str:
        """Name of the largest purpose."""
        parts = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "peak"}
        return max(parts, key=parts.__getitem__)


@dataclass(frozen=True)
class StepShape:
    """A step as the memory model sees it: images of a microbatch on a chip, microbatches, sizes, recomputation."""

    images: int
    microbatches: int
    sizes: ElementSizes
    recompute: bool = False


def resident(parts: list[PlannedNetwork], layout: Layout) -> Memory:
    """State that stays from step to step; `peak` is its sum."""
    weights = gradients = optimizer = average = frozen = 0.0
    for part in parts:
        own = FP32 * float(layout.parameters(part))
        if part.optim is None:
            frozen += own + layout.buffers(part)
            continue
        weights += own + layout.buffers(part)
        gradients += FP32 * float(layout.parameters(part, trained=True))
        optimizer += layout.slots(part)
        average += own + layout.buffers(part) if part.average else 0.0
    peak = weights + gradients + optimizer + average + frozen
    return Memory(weights, gradients, optimizer, average, frozen, peak=peak)


def gathered(part: PlannedNetwork, layout: Layout, step: StepShape) -> float:
    """Gathered weights of a sharded network: of the current and the next block, and the current block's gradient.

    FSDP2 also keeps all parameters outside of blocks gathered, in fp32, through the step; with several microbatches all
    blocks, too, and all gradients whole and in fp32, in order to gather and to reduce each once.
    """
    if layout.shards == 1 or not part.split or (layout.way == "fsdp" and part.replicated_in_fsdp):
        return 0.0
    block = largest_block(part.module)
    gathered_bytes = float(block * (2 * step.sizes.item + FP32))
    if layout.way == "fsdp":
        inside = {p for m in part.module.modules() if isinstance(m, nn.ModuleList) for p in m.parameters()}
        rest = [
            p for n, p in part.module.named_parameters() if p not in inside and p.ndim >= 2 and n not in part.unsharded
        ]
        outside = float(sum(p.numel() for p in rest))
        if step.microbatches > 1:
            blocks = float(sum(p.numel() for p in inside if p.ndim >= 2))
            return (step.sizes.item + FP32) * blocks + 2 * FP32 * outside
        return gathered_bytes + FP32 * outside
    return gathered_bytes


def casts(part: PlannedNetwork, layout: Layout, step: StepShape) -> float:
    """Copies in bf16 that autocast makes of a network's weights and autograd saves."""
    if step.sizes.item == FP32 or (layout.way == "fsdp" and layout.shards > 1):
        return 0.0
    return float(step.sizes.item * layout.parameters(part))


def update(part: PlannedNetwork, layout: Layout) -> float:
    """Temporaries of the update. Averaging over workers needs none: gradients become parts of its buckets."""
    return FACTORED * layout.largest(part) if part.optim is not None and part.optim.kind == "factored" else 0.0


def training(
    parts: list[PlannedNetwork],
    layout: Layout,
    step: StepShape,
    passes: list[tuple[PlannedNetwork, Activations]],
    before: float,
) -> Memory:
    """A component whose networks learn one after the other, each by its own pass.

    Args:
        parts, layout, step: networks, their split, and the share of a batch that a chip sees at a time.
        passes: the network that learns in each pass, and the activations of the pass.
        before: bytes needed before the first pass and freed when it begins.
    """
    held = resident(parts, layout)
    fixed = held.peak - held.gradients
    moments = [before + held.gradients]
    for part, pass_ in passes:
        own = FP32 * float(layout.parameters(part, trained=True))
        others = held.gradients - own
        running = gathered(part, layout, step) + casts(part, layout, step)
        moments.append(others + running + pass_.saved + pass_.transient + (own if step.microbatches > 1 else 0.0))
        moments.append(others + running + own + pass_.transient)
        moments.append(others + own + update(part, layout))
    fullest = max(range(len(passes)), key=lambda index: passes[index][1].saved + passes[index][1].transient)
    part, pass_ = passes[fullest]
    working = max(
        before, gathered(part, layout, step) + casts(part, layout, step), *(update(p, layout) for p, _ in passes)
    )
    return Memory(
        held.weights, held.gradients, held.optimizer, held.average, held.frozen, pass_.saved + pass_.transient, working,
        fixed + max(moments),
    )  # fmt: skip


def component_memory(
    name: str, config: PipelineConfig, parts: list[PlannedNetwork], layout: Layout, step: StepShape, classes: int
) -> Memory:
    """Bytes on a chip of one training component with these networks."""
    if name == "probe":
        return probe(config, parts, layout, step, classes)
    before = 0.0
    if name == "quantize":
        settings = config.quantize
        forward = activations.generator(settings, step.images, step.sizes, has_perceptual(settings))
    elif name == "prior":
        # images are encoded in batches before the prior's own pass
        if config.prior.source == "images":
            before = activations.encoding_bytes(config.quantize, config.quantize.encode_batch)
        shape = prior_shape(config.prior, config.quantize, 1)
        forward = activations.prior(shape, step.images, step.sizes, step.recompute)
    else:
        forward = activations.classifier(getattr(config, name), classes, step.images, step.sizes)
    passes = [(parts[0], forward)]
    if name == "quantize" and config.quantize.loss.adversarial > 0:
        passes.append((parts[1], activations.discriminator(config.quantize, step.images, step.sizes)))
    return training(parts, layout, step, passes, before)


def probe(config: PipelineConfig, parts: list[PlannedNetwork], layout: Layout, step: StepShape, classes: int) -> Memory:
    """Frozen features of one microbatch, then the update of one block's heads on the whole batch."""
    settings, shape = config.probe, prior_shape(config.prior, config.quantize, 1)
    held = resident(parts, layout)
    stack, tokens = shape.stack, shape.tokens
    wide = step.images * tokens * (2 * FP32 * stack.dim + step.sizes.item * (3 * stack.dim + 2 * stack.mlp))
    pooled = FP32 * float(stack.blocks * stack.dim * step.images * step.microbatches)
    # both sets of heads of every pair: logits, their logarithms and errors of the global batch
    columns = FITS * len(settings.learning_rates) * len(settings.weight_decays) * classes
    width = max(stack.dim, 3 * settings.pixels**2)
    heads = FP32 * float(columns * (3 * settings.batch + 5 * (width + 1)))
    # each set of features has its Cholesky factor in fp32 from the first epoch on; one is computed in fp64
    roots = (FP32 * stack.blocks * stack.dim**2 + 24.0 * width**2) if settings.decorrelate else 0.0
    extra = max(float(wide), heads) + pooled
    return Memory(frozen=held.frozen, activations=extra, working=roots, peak=held.peak + extra + roots)


def sampling(config: PipelineConfig, classes: int) -> float:
    """Bytes on a chip that draws samples: the prior, in the precision of its products too, and the cache of all lanes.

    With guidance every lane has two rows. The tokenizer decodes a group of lanes at once in fp32.
    """
    settings, quantize = config.sample, config.quantize
    shape, network = prior_shape(config.prior, quantize, classes), prior_networks(config.prior, quantize, classes)[0]
    item = 2 if settings.precision == "bf16" else FP32
    rows = settings.lanes * (1 if settings.guidance == 1 else 2)
    cache = 2.0 * item * rows * shape.tokens * shape.stack.blocks * shape.stack.dim
    weights = float(network.parameters) * (FP32 + (item if item < FP32 else 0))
    decoding = FP32 * settings.lanes * shape.tokens * (2.0 * quantize.decoder.dim + 2 * quantize.decoder.mlp)
    return weights + max(cache + FP32 * rows * shape.vocabulary, decoding)
