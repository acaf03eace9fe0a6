"""The plan of `ingest`: where every image of the source belongs, before any of them is decoded."""

from __future__ import annotations

import hashlib
import heapq
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

from components.contract.api import Context
from components.ingest.detect_layout import job_of, layout, layout_of
from components.ingest.layouts.base import Found, Job
from components.ingest.locator import UNKNOWN, Located, placing_key
from components.ingest.scan import PART, Part, locate, read_head, read_part, write_part
from vim_core.config import IngestConfig
from vim_core.data.folders import split_by_hash
from vim_core.errors import DataError
from vim_core.storage import io

if TYPE_CHECKING:
    from vim_core.data.split_lists import SplitList

SPLITS = ("train", "test")


@dataclass(frozen=True)
class Classes:
    """The classes by label: ids (wnids, folder names), names for people, and where they come from, for messages."""

    ids: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    origin: str = ""

    def labels(self) -> dict[str, int]:
        """Label by id."""
        return {name: label for label, name in enumerate(self.ids)}


@dataclass(frozen=True)
class Plan:
    """Everything found: the lists of images by parts, the classes, and what was left out.

    Attributes:
        layout: which layout it is.
        parts: URIs of the lists, in the order of the source.
        classes: the classes.
        total: images to account for.
        dead: how many of them are known to be unusable before they are read.
        left_out: images in neither list of `ingest.split=lists`; they are not part of `total`.
        left_out_files: files of many images on neither side of `ingest.split=folders`, unread.
        rules: how many images got their key by which rule.
        asked: changes with anything that the shards depend on.
    """

    layout: str
    parts: list[str]
    classes: Classes
    total: int
    dead: int
    left_out: int
    left_out_files: list[str] = field(default_factory=list)
    rules: dict[str, int] = field(default_factory=dict)
    asked: str = ""


def lists_of(config: IngestConfig) -> list[SplitList]:
    """The two lists of `ingest.split=lists`; none for other splits. Raises `DataError` for an unreadable one."""
    from vim_core.data.split_lists import read_list

    if config.split != "lists":
        return []
    return [
        read_list(config.train_list, "ingest.train_list", "train"),
        read_list(config.test_list, "ingest.test_list", "test"),
    ]


def make_plan(config: IngestConfig, ctx: Context) -> Plan:
    """Look through the source and sort out what belongs to no class. Raises `DataError` for a missing or empty one."""
    name = layout_of(config)
    job = job_of(config, name, ctx.work)
    found = layout(name).find(job)
    if not found.containers:
        raise DataError(f"ingest.layout={name}: no such files at {config.source} for ingest.split={config.split}")
    parts, left_out = locate(job, name, found, ctx), 0
    if config.split == "lists":
        parts, left_out = _listed(config, parts, io.join(ctx.work, "listed"))
    if config.limit:
        parts = _limited(config.limit, parts, io.join(ctx.work, "limited"))
    heads = [head for uri in parts if (head := read_head(uri)) is not None]
    classes = _classes(job, found, heads)
    settings = json.dumps([asdict(config), classes.ids, [head.asked for head in heads]])
    return Plan(
        layout=name,
        parts=parts,
        classes=classes,
        total=sum(head.images for head in heads),
        dead=sum(head.dead + _unknown(head, config, classes) for head in heads),
        left_out=left_out,
        left_out_files=found.left_out,
        rules=dict(sum((Counter(head.rules) for head in heads), Counter())),
        asked=hashlib.sha256(settings.encode()).hexdigest(),
    )


def settled(config: IngestConfig, classes: Classes) -> Callable[[Located], Located]:
    """A function that gives an image its label and split, or the reason why it belongs to no class."""
    labels = classes.labels()

    def settle(image: Located) -> Located:
        label, reason = image.label, image.reason
        if not config.labelled:
            label = UNKNOWN
        elif not reason and image.name:
            label = labels.get(image.name, UNKNOWN)
            reason = "" if label != UNKNOWN else f"class {image.name!r} is not among {classes.origin}"
        elif not reason and not 0 <= label < len(classes.ids):
            reason = f"class {label} is not among the {len(classes.ids)} of {classes.origin}"
        split = image.split or split_by_hash(placing_key(image.key), config.test_fraction)
        return image._replace(label=label, split=split, reason=reason)

    return settle


def first_reasons(config: IngestConfig, plan: Plan, count: int) -> list[tuple[str, str]]:
    """Source and reason of the first unusable images by source."""
    settle = settled(config, plan.classes)
    images = (settle(image) for image in _images(plan.parts))
    return heapq.nsmallest(count, ((image.source, image.reason) for image in images if image.reason))


def _images(parts: Sequence[str]) -> Iterator[Located]:
    for uri in parts:
        yield from read_part(uri)[1]


def _classes(job: Job, found: Found, heads: Sequence[Part]) -> Classes:
    config = job.config
    if not config.labelled:
        return Classes()
    if config.classes:
        return Classes(tuple(config.classes), tuple(config.classes), "ingest.classes")
    if job.classes:
        return Classes(job.classes.ids, job.classes.names, "the class list")
    if found.classes:
        return Classes(found.classes, found.classes, "the classes that the source names")
    split = "" if config.split == "hash" else "train"
    names = sorted({name for head in heads for name in head.names.get(split, {}) if name})
    if not names:  # numbers alone: they stay as they are, also where some are missing
        names = [str(label) for label in range(max((head.highest for head in heads), default=-1) + 1)]
    train = "train/" if config.split == "folders" else "ingest.train_list"
    return Classes(tuple(names), tuple(names), f"the classes of {train}")


def _unknown(head: Part, config: IngestConfig, classes: Classes) -> int:
    known = classes.labels()
    named = (pair for names in head.names.values() for pair in names.items())
    return sum(count for name, count in named if config.labelled and name and name not in known)


def _listed(config: IngestConfig, parts: Sequence[str], folder: str) -> tuple[list[str], int]:
    """The images in the lists, the lines that name none (with the reason), and the number of images in neither.

    This holds the paths of all images in memory: what a line names depends on all of them.
    """
    from vim_core.data.split_lists import assign_splits

    found = assign_splits((image.source for image in _images(parts)), lists_of(config))
    missing = (Located(line, "path", "", "", UNKNOWN, line, "", "", reason=reason) for line, reason in found.missing)

    def kept() -> Iterator[Located]:
        for image in _images(parts):
            if image.source in found.splits:
                yield image._replace(split=found.splits[image.source])
        yield from missing

    total = sum(head.images for uri in parts if (head := read_head(uri)) is not None)
    return _written(kept(), folder), total - len(found.splits)


def _limited(limit: int, parts: Sequence[str], folder: str) -> list[str]:
    """The images of the lowest hash: a choice that is independent of the split, which takes low hashes too."""
    lowest = heapq.nsmallest(limit, (_rank(image) for image in _images(parts)))
    return _written((image for image in _images(parts) if _rank(image) <= lowest[-1]), folder)


def _rank(image: Located) -> tuple[int, str]:
    from vim_core.data.image_tables import stable_hash

    return stable_hash("limit", image.key), image.source


def _written(images: Iterator[Located], folder: str) -> list[str]:
    uris: list[str] = []
    while batch := list(islice(images, PART)):
        uris.append(io.join(folder, f"{len(uris):06d}.jsonl"))
        write_part(uris[-1], batch)
    return uris
