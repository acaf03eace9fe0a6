"""Operations, hours and cost of a training, and what it keeps on disk."""

from __future__ import annotations

from dataclasses import dataclass

from vim_core.config import ClassifyConfig, PipelineConfig, ProbeConfig, TrainConfig
from vim_core.models.prior import PriorShape
from vim_core.planning.activations import classifier_widths
from vim_core.planning.layout import Layout
from vim_core.planning.networks import Part, has_perceptual, prior_shape
from vim_core.tasks.probe_heads import FITS
from vim_core.training import flops

WHOLE = Layout("data", 1, 1)
"""A checkpoint holds all parts of everything once, however it was split."""


@dataclass(frozen=True)
class Time:
    """Hours of wall clock, chip hours, and money where a price is known."""

    hours: float
    chip_hours: float
    cost: float | None


def settings(component: str, config: PipelineConfig) -> TrainConfig:
    """The settings of a training component."""
    found: TrainConfig = getattr(config, component)
    return found


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
    return {"classifier": classifier_step(getattr(config, component), classes)}


def classifier_step(config: ClassifyConfig, classes: int) -> float:
    """Forward and backward pass of a batch; images need no gradient."""
    widths = classifier_widths(config)
    layers = [flops.convolution(side, 3, inputs, outputs) for inputs, outputs, side in widths]
    last = flops.linear(1, config.width * 4, config.features) + flops.linear(1, config.features, classes)
    return config.batch * (3 * (sum(layers) + last) - layers[0])


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


def time(work: float, steps: int, chips: int, peak: float, mfu: float, price: float | None) -> Time:
    """Time of `steps` steps of `work` operations at this share of the chips' peak.

    Args:
        work: operations of a step over the global batch.
        steps: of them.
        chips: that share the step.
        peak: of one chip, FLOP/s.
        mfu: share of it that counted operations reach.
        price: of a chip's hour, or None.
    """
    hours = work * steps / (chips * peak * mfu) / 3600
    return Time(hours, hours * chips, None if price is None else hours * chips * price)


def checkpoint(parts: list[Part]) -> float:
    """Bytes of one checkpoint: networks that learn, their averages and optimizers; heads and sums of a probe."""
    found = 0.0
    for part in parts:
        if part.optim is None:
            found += WHOLE.buffers(part) if part.name == "heads" else 0.0
            continue
        network = 4.0 * part.parameters + WHOLE.buffers(part)
        found += network * (2 if part.average else 1) + WHOLE.slots(part)
    return found


def checkpoints(parts: list[Part], config: TrainConfig) -> tuple[int, float]:
    """How many checkpoints lie on disk at most, one being written included, and their bytes together."""
    count = min(config.keep + 1 + bool(config.best), max(1, -(-config.steps // config.checkpoint_every)))
    return count, count * checkpoint(parts)
