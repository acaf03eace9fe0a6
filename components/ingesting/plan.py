"""What lies at the source of `ingest` and where each file belongs, before any image is read."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from vim_core.config import IngestConfig
from vim_core.errors import DataError

if TYPE_CHECKING:
    from vim_core.data.folders import Item

DIGITS = "builtin:digits"
SPLITS = ("train", "test")

Located = tuple[str, int, str]
"""Key, label and path of an image: all that is shuffled; bytes are read by whoever writes the shard."""

Dead = tuple[str, str, str]
"""Key, reason and path of a file that cannot be used."""


@dataclass
class Plan:
    """Everything found, sorted out: class names, usable images by split, and dead letters (key, reason, source)."""

    classes: list[str]
    images: dict[str, list[Located]] = field(default_factory=lambda: {split: [] for split in SPLITS})
    dead: list[Dead] = field(default_factory=list)
    total: int = 0


def check_source(config: IngestConfig) -> None:
    """Raise `DataError` for a built-in data set that does not exist or has no such split."""
    if config.source.startswith("builtin:") and config.source != DIGITS:
        raise DataError(f"ingest.source={config.source}: the only built-in data set is {DIGITS}")
    if config.source == DIGITS and config.split != "hash":
        raise DataError(f"ingest.split={config.split}: {DIGITS} has no train/ and val/ folders; set ingest.split=hash")


def items_of(config: IngestConfig) -> list[Item]:
    """Every file of the source with its place, in path order; `ingest.limit` keeps those of the lowest hash."""
    from vim_core.data import digits, folders
    from vim_core.data.tables import hashed

    check_source(config)
    if config.source == DIGITS:
        items = [_digit(index, config.test_fraction) for index in range(digits.count())]
    else:
        entries = folders.listing(config.source, config.split)
        items = [folders.place(entry, config.split, config.test_fraction) for entry in entries]
    if config.limit:
        # "limit" keeps this choice independent of the split, which takes low hashes too
        items = sorted(items, key=lambda item: hashed("limit", item.key))[: config.limit]
    return sorted(items, key=lambda item: item.key)


def _digit(index: int, test_fraction: float) -> Item:
    from vim_core.data import digits, folders

    key = digits.key(index)
    return folders.Item(key, str(index), folders.held_out(key, test_fraction), digits.CLASSES[digits.label(index)])


def make_plan(config: IngestConfig) -> Plan:
    """List the source and sort out what belongs to no class. Raises `DataError` for a missing or empty source."""
    items = items_of(config)
    known = {item.name for item in items if not item.reason and (config.split == "hash" or item.split == "train")}
    plan = Plan(list(config.classes) or sorted(known), total=len(items))
    labels = {name: label for label, name in enumerate(plan.classes)}
    origin = "ingest.classes" if config.classes else "the classes of train/"
    for item in items:
        reason = item.reason or ("" if item.name in labels else f"class {item.name!r} is not among {origin}")
        if reason:
            plan.dead.append((item.key, reason, item.path))
        else:
            plan.images[item.split].append((item.key, labels[item.name], item.path))
    return plan
