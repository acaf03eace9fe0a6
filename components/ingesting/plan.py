"""What lies at the source of `ingest` and where each file belongs, before any image is read."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from vim_core.config import IngestConfig
from vim_core.errors import DataError

if TYPE_CHECKING:
    from vim_core.data.folders import Entry, Item
    from vim_core.data.lists import ImageList

DIGITS = "builtin:digits"
SPLITS = ("train", "test")

UNLABELLED = -1
"""The label of an image without a class."""

Located = tuple[str, int, str]
"""Key, label and path of an image: all that is shuffled; bytes are read by whoever writes the shard."""

Dead = tuple[str, str, str]
"""Key, reason and path of a file that cannot be used."""


@dataclass
class Plan:
    """Everything found, sorted out: class names, usable images by split, and dead letters (key, reason, source).

    `left_out` counts the files in neither list; they are not part of `total`.
    """

    classes: list[str]
    images: dict[str, list[Located]] = field(default_factory=lambda: {split: [] for split in SPLITS})
    dead: list[Dead] = field(default_factory=list)
    total: int = 0
    left_out: int = 0


def check_source(config: IngestConfig) -> None:
    """Raise `DataError` for a built-in data set that does not exist or has no such split."""
    if config.source.startswith("builtin:") and config.source != DIGITS:
        raise DataError(f"ingest.source={config.source}: the only built-in data set is {DIGITS}")
    if config.source == DIGITS and config.split != "hash":
        raise DataError(f"ingest.split={config.split}: {DIGITS} is split by hash only; set ingest.split=hash")


def lists_of(config: IngestConfig) -> list[ImageList]:
    """The two lists of `ingest.split=lists`; none for other splits. Raises `DataError` for an unreadable one."""
    from vim_core.data.lists import read_list

    if config.split != "lists":
        return []
    return [
        read_list(config.train_list, "ingest.train_list", "train"),
        read_list(config.test_list, "ingest.test_list", "test"),
    ]


def items_of(config: IngestConfig) -> tuple[list[Item], int]:
    """Every file of the source with its place, in path order, and how many were left out, being in neither list.

    `ingest.limit` keeps those of the lowest hash.
    """
    from vim_core.data import digits, folders
    from vim_core.data.tables import hashed

    check_source(config)
    left_out = 0
    if config.source == DIGITS:
        items = [_digit(index, config.test_fraction) for index in range(digits.count())]
    else:
        entries = folders.listing(config.source, config.split)
        if config.split == "lists":
            items, left_out = _listed(config, entries)
        else:
            items = [folders.place(entry, config.split, config.test_fraction, config.labelled) for entry in entries]
    if config.limit:
        # "limit" keeps this choice independent of the split, which takes low hashes too
        items = sorted(items, key=lambda item: hashed("limit", item.key))[: config.limit]
    return sorted(items, key=lambda item: item.key), left_out


def _listed(config: IngestConfig, entries: list[Entry]) -> tuple[list[Item], int]:
    """The files in the lists, the lines that name no file (with the reason), and the number of files in neither."""
    from vim_core.data import folders
    from vim_core.data.lists import membership

    found = membership((entry.path for entry in entries), lists_of(config))
    placed = (folders.place(entry, "hash", config.test_fraction, config.labelled) for entry in entries)
    items = [replace(item, split=found.splits[item.path]) for item in placed if item.path in found.splits]
    left_out = len(entries) - len(items)
    items += [folders.Item(line, line, "", "", reason) for line, reason in found.missing]
    return items, left_out


def _digit(index: int, test_fraction: float) -> Item:
    from vim_core.data import digits, folders

    key = digits.key(index)
    return folders.Item(key, str(index), folders.held_out(key, test_fraction), digits.CLASSES[digits.label(index)])


def make_plan(config: IngestConfig) -> Plan:
    """List the source and sort out what belongs to no class. Raises `DataError` for a missing or empty source."""
    items, left_out = items_of(config)
    known = {item.name for item in items if not item.reason and (config.split == "hash" or item.split == "train")}
    classes = (list(config.classes) or sorted(known)) if config.labelled else []
    plan = Plan(classes, total=len(items), left_out=left_out)
    labels = {name: label for label, name in enumerate(classes)} if config.labelled else {"": UNLABELLED}
    train = "train/" if config.split == "folders" else "ingest.train_list"
    origin = "ingest.classes" if config.classes else f"the classes of {train}"
    for item in items:
        name = item.name if config.labelled else ""
        reason = item.reason or ("" if name in labels else f"class {name!r} is not among {origin}")
        if reason:
            plan.dead.append((item.key, reason, item.path))
        else:
            plan.images[item.split].append((item.key, labels[name], item.path))
    return plan
