"""Counts of images, classes and candidates that later components need, checked at once, before any of them trains."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from components.contract.api import Artifact
from vim_core.config import PipelineConfig
from vim_core.errors import ConfigError

CLASSIFIED = ("classify", "selector", "probe")
"""Components that tell classes apart."""
EXACT = 20_000
"""Images up to which keys are read, because a split by their hash may be empty; among more, none is."""
FEWEST_A_SPLIT = 12
"""Images expected in a split of the Inception Score below which a split may be empty, where keys are not known yet."""
NEIGHBOURS, DENSITY_NEIGHBOURS, KERNEL_IMAGES, SHUFFLED_SPLITS = 3, 5, 1000, 10
"""Neighbours of precision and recall, neighbours of density and coverage, images a side of torch-fidelity's KID, splits
of its Inception Score."""


@dataclass(frozen=True)
class ImageCounts:
    """Images by split, classes in label order, images of each class by split, and the keys of a split."""

    splits: Mapping[str, int]
    classes: Sequence[str]
    class_counts: Mapping[str, Sequence[int]]
    keys: Callable[[str], list[str]]


def counted(images: Artifact) -> ImageCounts:
    """The counts that an artifact of ingest records; its keys are read from its tables."""

    def keys(split: str) -> list[str]:
        from vim_core.data.image_tables import open_parquet

        tables = (open_parquet(uri).read(columns=["key"]) for uri in images.uris(f"images/{split}-"))
        return [str(key) for table in tables for key in table["key"].to_pylist()]

    properties = images.properties
    return ImageCounts(properties["splits"], properties["classes"], properties.get("class_counts", {}), keys)


def shortfalls(config: PipelineConfig, images: ImageCounts) -> list[str]:
    """A text for every setting that asks for more than the images or the prior have: setting, value, and what fits."""
    checks = (_null_class, _classes, _statistics, _generated, _inception_score, _conventions, _sample, _select, _probe)
    return [text for check in checks for text in check(config, images)]


def _null_class(config: PipelineConfig, images: ImageCounts) -> Iterator[str]:
    """Guidance and probe need a null class, which would come to light after the prior is trained."""
    if "prior" not in config.components or (config.prior.conditional and config.prior.label_dropout > 0):
        return
    rule = "needs a class-conditional prior trained with prior.label_dropout > 0"
    if "sample" in config.components and config.sample.guidance != 1:
        yield f"sample.guidance={config.sample.guidance}: {rule}; set sample.guidance=1"
    if "tradeoff" in config.components and config.tradeoff.guidances != [1.0]:
        yield f"tradeoff.guidances={config.tradeoff.guidances}: {rule}; set tradeoff.guidances=[1.0]"
    if "probe" in config.components and config.prior.conditional:
        what = "probe: the true class must not reach it, and the prior has no null class; set prior.label_dropout > 0"
        yield f"{what}, prior.conditional=false, or leave out probe"


def _classes(config: PipelineConfig, images: ImageCounts) -> Iterator[str]:
    names = [name for name in CLASSIFIED if name in config.components]
    classes = list(images.classes)
    if not names or len(classes) > 1:
        return
    there = f"there is only {classes[0]!r}" if classes else "there is none"
    yield (
        f"components: {', '.join(names)} tell classes apart, and {there}; leave out "
        f"{', '.join(dict.fromkeys([*names, *_judged(config)]))}"
    )


def _judged(config: PipelineConfig) -> list[str]:
    """Components that need a classifier."""
    own = config.statistics.network == "classifier"
    dependent = [*(["statistics"] if own else []), "select", "tradeoff"]
    return [name for name in dependent if name in config.components]


def _statistics(config: PipelineConfig, images: ImageCounts) -> Iterator[str]:
    if "statistics" not in config.components:
        return
    settings, splits = config.statistics, images.splits
    count = splits[settings.split]
    if count < 2:
        yield f"statistics.split={settings.split}: has {count} image, and statistics need 2; hold out more images"
    halves = _by_hash(images, settings.halves, lambda key: _hashes().half_of(key), 2)
    if halves is not None and min(halves) < 2:
        what = f"statistics.halves={settings.halves}: by the hash of their keys the halves have {halves} images, "
        yield what + "and each needs 2; set statistics.halves=[train,test] or hold out more images"
    if settings.features and count <= DENSITY_NEIGHBOURS:
        what = f"statistics.features={settings.features}: density looks at {DENSITY_NEIGHBOURS} neighbours, "
        yield what + f"and there are {count} {settings.split} images; set statistics.features=0 or hold out more images"


def _generated(config: PipelineConfig, images: ImageCounts) -> Iterator[str]:
    """Sets of generated images that statistics cannot be taken of."""
    names = config.components
    if not {"statistics", "score", "sample"} <= set(names) or config.score.samples_from:
        return
    sets = {f"sample.count={config.sample.count}": config.sample.count}
    if "select" in names:
        sets[f"select.count={config.select.count}"] = config.select.count * len(images.classes)
    for setting, count in sets.items():
        if config.statistics.features and count <= NEIGHBOURS:
            what = f"{setting}: precision and recall look at {NEIGHBOURS} neighbours, and these are {count} images; "
            yield what + "raise it, or set statistics.features=0"
        elif count < 2:
            yield f"{setting}: a Fréchet distance needs 2 images; raise it"


def _inception_score(config: PipelineConfig, images: ImageCounts) -> Iterator[str]:
    from components.sample.draw import sample_key

    settings, names = config.statistics, config.components
    if "statistics" not in names or not settings.score_splits:
        return
    real = _keys(images, [settings.split])
    sets = {f"{images.splits[settings.split]} {settings.split} images": real}
    if {"sample", "score"} <= set(names) and not (config.score.protocol or config.score.samples_from):
        drawn = [sample_key(number) for number in range(min(config.sample.count, EXACT))]
        sets[f"sample.count={config.sample.count} samples"] = drawn
    selected = config.select.count * len(images.classes)
    few = selected if {"select", "score"} <= set(names) and not config.score.protocol else None

    def fits(splits: int) -> bool:
        filled = all(_all_filled(keys, splits) for keys in sets.values() if keys is not None)
        return filled and (few is None or splits == 1 or few >= FEWEST_A_SPLIT * splits)

    if fits(settings.score_splits):
        return
    most = max((splits for splits in range(1, settings.score_splits) if fits(splits)), default=0)
    among = " or ".join([*sets, *([f"{selected} images that select keeps"] if few is not None else [])])
    yield (
        f"statistics.score_splits={settings.score_splits}: a split of the Inception Score would be empty among "
        f"{among}; set statistics.score_splits={most}"
    )


def _conventions(config: PipelineConfig, images: ImageCounts) -> Iterator[str]:
    protocol, features = config.score.protocol, config.statistics.features
    drawn = {"statistics", "sample", "score"} <= set(config.components) and not config.score.samples_from
    if protocol != "torch-fidelity" or not drawn:
        return
    count, real = config.sample.count, images.splits[config.statistics.split]
    if count < SHUFFLED_SPLITS:
        yield f"sample.count={count}: {protocol} has {SHUFFLED_SPLITS} splits; set sample.count={SHUFFLED_SPLITS}"
    if features and min(count, real) < KERNEL_IMAGES:
        what = f"score.protocol={protocol}: its KID takes {KERNEL_IMAGES} images a side, and there are {count} samples "
        yield what + f"and {real} real ones; set statistics.features=0 or score.protocol="


def _sample(config: PipelineConfig, images: ImageCounts) -> Iterator[str]:
    from components.sample.draw import class_numbers

    if "sample" not in config.components or not config.prior.conditional:
        return
    try:
        chosen = class_numbers(config.sample.classes, images.classes)
    except ConfigError as error:
        yield str(error)
        return
    held_out = images.class_counts.get("test", [])
    if config.sample.prefix and chosen and held_out and not any(held_out[number] for number in chosen):
        what = f"sample.prefix={config.sample.prefix}: completes held-out images, and of sample.classes="
        yield what + f"{config.sample.classes} there is none; name others or hold out more images"


def _select(config: PipelineConfig, images: ImageCounts) -> Iterator[str]:
    from vim_core.sampling.rejection import candidates_needed

    classes = len(images.classes)
    if "select" not in config.components or not classes:
        return
    settings, rate = config.select, min(config.select.rates)
    if config.sample.classes and len(config.sample.classes) < classes:
        what = f"sample.classes={config.sample.classes}: select keeps images of each of the {classes} classes; "
        yield what + "set sample.classes=[] or leave out select"
        return
    needed, available = candidates_needed(settings.count, rate), config.sample.count // classes
    if needed <= available:
        return
    most = math.floor(available * rate)
    while most > 0 and candidates_needed(most, rate) > available:
        most -= 1
    fewer = f"select.count={most} or " if most else ""
    yield (
        f"select.count={settings.count}: at the rate {rate} it takes {needed} candidates a class, and sample.count="
        f"{config.sample.count} gives {available} of each of {classes} classes; set {fewer}"
        f"sample.count={needed * classes}"
    )


def _probe(config: PipelineConfig, images: ImageCounts) -> Iterator[str]:
    from vim_core.data.probe_split import is_validation

    if "probe" not in config.components:
        return
    share = config.probe.validation_share
    sides = _by_hash(images, ["train"], lambda key: int(is_validation(key, config.probe)), 2)
    if sides is None or min(sides) > 0:
        return
    what = f"probe.validation_share={share}: of {sum(sides)} training images none is on one side of it; "
    yield what + "change it, use more images, or leave out probe"


def _keys(images: ImageCounts, splits: Sequence[str]) -> list[str] | None:
    """Keys of the images of these splits; None for more than `EXACT` images."""
    if sum(images.splits[split] for split in splits) > EXACT:
        return None
    return [key for split in splits for key in images.keys(split)]


def _by_hash(images: ImageCounts, splits: Sequence[str], side: Callable[[str], int], count: int) -> list[int] | None:
    """Number of images on each side; None for more than `EXACT` images."""
    keys = _keys(images, splits)
    if keys is None:
        return None
    sides = [side(key) for key in keys]
    return [sides.count(number) for number in range(count)]


def _all_filled(keys: Sequence[str], splits: int) -> bool:
    return len({_hashes().split_of(key, splits) for key in keys}) == splits


def _hashes() -> Any:
    from vim_core.metrics import feature_statistics

    return feature_statistics
