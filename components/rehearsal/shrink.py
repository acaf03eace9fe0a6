"""A preset's settings with smaller sizes and fewer steps, and nothing else changed."""

from __future__ import annotations

import math
from dataclasses import fields
from fnmatch import fnmatch
from typing import Any

from components.contract import settings
from vim_core.config import PipelineConfig, StackConfig, TrainConfig
from vim_core.rehearsal.schedule import PERIOD, Schedule

SIZES = (
    "*.steps", "*.batch", "*.log_every", "*.checkpoint_every", "*.evaluate_every", "*.evaluate_limit", "*.warmup",
    "*.decay_start", "*.image_size", "*.blocks", "*.heads", "*.dim", "*.mlp", "*.width", "*.features", "*.lanes",
    "*.shards", "*.groups", "quantize.codebook.codes", "quantize.codebook.restart.every", "quantize.encode_batch",
    "quantize.discriminator.channels", "quantize.discriminator.base", "quantize.discriminator.ramp_start",
    "quantize.discriminator.ramp_steps", "quantize.discriminator.r1_every", "prior.preview", "ingest.resize",
    "ingest.limit", "tokenize.views", "statistics.score_splits", "sample.count", "select.count", "score.usage_batch",
    "score.neighbours", "tradeoff.count", "tradeoff.bootstrap", "probe.pixels",
)  # fmt: skip
"""Settings that a rehearsal makes smaller, as patterns of dotted keys."""
KEPT = ("quantize.codebook.dim",)
"""The exceptions, which stay as they are: the length of a code is a choice of its own."""
PLACES = (
    "run.root", "run.tracking_uri", "run.register", "run.system_metrics", "run.rehearse", "run.changed",
    "ingest.source", "ingest.train_list", "ingest.test_list", "ingest.class_list", "ingest.val_labels",
    "quantize.loss.perceptual_weights", "quantize.loss.perceptual_sha256", "score.lpips_weights", "score.lpips_sha256",
    "select.network.weights", "select.network.sha256", "select.network.classes", "tradeoff.network.weights",
    "tradeoff.network.sha256", "tradeoff.network.classes", "gates.codebook_usage", "quantize.usage_alarm",
    "quantize.usage_halt",
)  # fmt: skip
"""Where a rehearsal reads and writes, and the bounds that judge what only a whole training learns."""

PIXELS = 32
"""Side that images are halved to, as far as the patches allow."""
ROW_GROUPS = 32
"""Files of an image table, a small row group each; ImageNet has thousands of row groups."""
BATCH_SHARE = 32
"""A batch is this much smaller, rounded up to what workers, microbatches and groups of images divide."""
LEAST_BATCH = 8
CLASSES, TRAIN_IMAGES, TEST_IMAGES = 8, 20, 5
"""Classes of generated images, and images of each class by split."""
IMAGES = CLASSES * (TRAIN_IMAGES + TEST_IMAGES)


def shrink(config: PipelineConfig, measured: int) -> PipelineConfig:
    """The preset for a rehearsal that times `measured` steps of each training.

    Every choice of structure stays; `SIZES` lists what becomes smaller. Raises `ConfigError` for settings that
    contradict each other.
    """
    schedule = Schedule(measured)
    values: dict[str, Any] = {}
    for entry in fields(config):
        group = getattr(config, entry.name)
        if isinstance(group, TrainConfig):
            values |= training_sizes(entry.name, group, schedule, divisor(config, entry.name, group))
        elif hasattr(group, "batch"):
            values[f"{entry.name}.batch"] = min(group.batch, BATCH_SHARE)
        if hasattr(group, "shards"):
            values[f"{entry.name}.shards"] = min(group.shards, 2)
    values |= network_sizes(config) | tokenizer_sizes(config) | table_sizes(config)
    return settings.with_values(config, values)


def is_size(key: str) -> bool:
    """True if a rehearsal may change the setting of this dotted key, to a smaller size or another address."""
    return any(fnmatch(key, pattern) for pattern in SIZES + PLACES) and key not in KEPT


def divisor(config: PipelineConfig, name: str, training: TrainConfig) -> int:
    """The number that must divide the training's batch: workers (or XLA's devices), microbatches, groups of images."""
    group = 1
    if name == "quantize" and config.quantize.loss.adversarial > 0:
        group = config.quantize.discriminator.stddev_group
    return math.lcm(group, LEAST_BATCH if config.run.device == "xla" else 1) * config.run.workers * training.accumulate


def training_sizes(name: str, training: TrainConfig, schedule: Schedule, unit: int) -> dict[str, Any]:
    """Steps, batch and intervals of a training, the optimizers' in proportion to its steps."""
    steps = schedule.steps
    wanted = min(training.batch, max(LEAST_BATCH, training.batch // BATCH_SHARE))
    values: dict[str, Any] = {
        "steps": steps,
        "batch": unit * max(1, math.ceil(wanted / unit)),
        "log_every": PERIOD,
        "checkpoint_every": schedule.checkpoint,
        "evaluate_every": schedule.checkpoint if training.evaluate_every else 0,
        "evaluate_limit": min(training.evaluate_limit, TEST_IMAGES),
    }
    optimizers = {"optim": training.optim}
    if name == "quantize":
        optimizers["discriminator.optim"] = training.discriminator.optim  # type: ignore[attr-defined]
    for key, optim in optimizers.items():
        spans = ("warmup", "decay_start")
        values |= {f"{key}.{each}": _share(getattr(optim, each), training.steps, steps) for each in spans}
    return {f"{name}.{key}": value for key, value in values.items()}


def _share(span: int, of: int, steps: int) -> int:
    """A number of steps in proportion; at least one where there was one."""
    return max(1, round(span * steps / of)) if span else 0


def network_sizes(config: PipelineConfig) -> dict[str, Any]:
    """Widths and depths: two blocks, four heads of sixteen, the same ratio of the MLP; classifiers of few channels."""
    stacks = {
        "quantize.encoder": config.quantize.encoder, "quantize.decoder": config.quantize.decoder,
        "prior.stack": config.prior.stack,
    }  # fmt: skip
    values: dict[str, Any] = {}
    for key, stack in stacks.items():
        small = StackConfig(blocks=min(stack.blocks, 2), heads=min(stack.heads, 4), dim=64, mlp=256)
        dim = min(stack.dim, 16 * small.heads)
        values |= {
            f"{key}.blocks": small.blocks, f"{key}.heads": small.heads, f"{key}.dim": dim,
            f"{key}.mlp": max(1, stack.mlp * dim // stack.dim),
        }  # fmt: skip
    for name in ("classify", "selector"):
        network = getattr(config, name)
        values |= {
            f"{name}.width": min(network.width, 8), f"{name}.features": min(network.features, 16),
            f"{name}.image_size": min(network.image_size, PIXELS),
        }  # fmt: skip
    return values


def tokenizer_sizes(config: PipelineConfig) -> dict[str, Any]:
    """Pixels, codes and discriminator; the patch stays, so that an image has fewer tokens."""
    quantize, size = config.quantize, config.quantize.image_size
    while size > PIXELS and size % 2 == 0 and (size // 2) % quantize.patch == 0 and size // 2 >= 2 * quantize.patch:
        size //= 2
    network = quantize.discriminator
    channels = min(network.channels, 16)
    base = max(size, network.base * channels * size // (network.channels * quantize.image_size))
    restart, steps = quantize.codebook.restart, Schedule(1).steps
    return {
        "quantize.image_size": size,
        "quantize.codebook.codes": min(quantize.codebook.codes, 64),
        "quantize.codebook.restart.every": min(restart.every, PERIOD),
        "quantize.encode_batch": min(quantize.encode_batch, 4),
        # Usage is defined on more held-out images than a rehearsal has.
        "quantize.usage_alarm": 0.0,
        "quantize.usage_halt": 0.0,
        "quantize.discriminator.channels": channels,
        "quantize.discriminator.base": min(network.base, base),
        "quantize.discriminator.r1_every": min(network.r1_every, PERIOD),
        "quantize.discriminator.ramp_start": min(network.ramp_start, _share(network.ramp_start, quantize.steps, steps)),
        "quantize.discriminator.ramp_steps": min(network.ramp_steps, _share(network.ramp_steps, quantize.steps, steps)),
        "ingest.resize": config.ingest.resize * size // quantize.image_size,
    }


def table_sizes(config: PipelineConfig) -> dict[str, Any]:
    """Numbers of images that components make and judge."""
    select, sample = config.select, config.sample
    built_in = config.ingest.source.startswith("builtin:")
    rate = min(select.rates) if "select" in config.components else 1.0
    # The Inception Score's splits are filled by a hash: few images may leave one empty.
    kept = min(select.count, 3 if config.statistics.score_splits else 2)
    candidates = math.ceil(kept / rate)
    count = max(32, 10 * candidates if built_in else CLASSES * candidates)
    return {
        "ingest.shards": config.ingest.shards if built_in else ROW_GROUPS,
        "ingest.limit": min(config.ingest.limit or IMAGES, IMAGES),
        "tokenize.views": min(config.tokenize.views, 2),
        "prior.preview": min(config.prior.preview, 4),
        "statistics.score_splits": min(config.statistics.score_splits, 2),
        "statistics.features": min(config.statistics.features, 32),
        "sample.count": min(sample.count, count),
        "sample.lanes": min(sample.lanes, 8),
        "select.count": kept,
        "score.usage_batch": min(config.score.usage_batch, 16),
        "score.neighbours": min(config.score.neighbours, 16),
        "score.groups": min(config.score.groups, 4),
        "tradeoff.groups": min(config.tradeoff.groups, 4),
        "tradeoff.count": min(config.tradeoff.count, 2),
        "tradeoff.lanes": min(config.tradeoff.lanes, 20),
        "tradeoff.bootstrap": min(config.tradeoff.bootstrap, 20),
        "probe.pixels": min(config.probe.pixels, 8),
    }
