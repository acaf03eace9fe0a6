"""The classes of a source: by the settings, by its own list, by the names of its training images, or by numbers."""

from __future__ import annotations

import math
from collections import Counter

from components.ingest.index import ImageCounts
from components.ingest.labels import ClassList
from components.ingest.layouts.base import ScanContext, SourceParts
from vim_core.errors import DataError

FEW_CLASSES = 1024
"""Number of classes above which at least half must occur."""

LEAST_SHARE = 0.25
"""The classes that occur, as a share of those that as many images show on average where all classes are equal."""

OWN_LABELS = ("webdataset", "parquet", "table")
"""Layouts in which each image has its label beside it."""


def first_label(layout: str, counts: ImageCounts) -> int:
    """The lowest label: TensorFlow's conversion of ImageNet counts from 1; of others that count from 0, 0 occurs."""
    return 1 if layout == "tfrecord" and 0 not in counts.labels else 0


def find_classes(
    context: ScanContext, layout: str, parts: SourceParts, counts: ImageCounts, first: int
) -> tuple[ClassList, dict[int, int]]:
    """The classes, and the label by the source's number where they differ; `first` is the source's lowest number.

    Raises:
        DataError: all images of a class are unusable, names and numbers are mixed, or most numbers do not occur.
    """
    config = context.config
    if not config.labelled:
        return ClassList(), {}
    _check_lost_classes(counts)
    numbers = {label: label - first for label in counts.labels} if first else {}
    if config.classes:
        return ClassList(tuple(config.classes), tuple(config.classes), "ingest.classes"), numbers
    if context.classes:
        return context.classes, numbers
    if parts.classes:
        return ClassList(parts.classes, parts.classes, "the classes that the source names"), numbers
    split = "" if config.split == "hash" else "train"
    names = sorted(name for name in counts.names.get(split, {}) if name)
    if names and counts.labels and layout in OWN_LABELS:
        raise DataError(
            f"ingest.source={config.source}: some labels are names ({names[0]}, …), others are numbers "
            f"({min(counts.labels)}, …); make them of one kind, or name the classes in order as ingest.classes"
        )
    if not names:
        occurring = sorted(label for label in counts.labels if label >= first)
        if config.label_numbers == "map":
            numbers = {label: index for index, label in enumerate(occurring)}
            ids = tuple(map(str, occurring))
            return ClassList(ids, ids, "the labels that occur"), numbers
        total = occurring[-1] - first + 1 if occurring else 0
        if _is_sparse(len(occurring), total, counts.labels.total()):
            raise DataError(
                f"ingest.source={config.source}: {len(occurring)} labels occur, and they go up to {occurring[-1]} "
                f"({counts.labels[occurring[-1]]} images): most of {total:,} classes would be empty; mend the labels, "
                "or set ingest.label_numbers=map to number those that occur"
            )
        names = [str(label) for label in range(total)]  # kept unchanged, also if some are missing
    train = "train/" if config.split == "folders" else "ingest.train_list"
    return ClassList(tuple(names), tuple(names), f"the classes of {train}"), numbers


def _is_sparse(occurring: int, total: int, images: int) -> bool:
    """True if so few of `total` classes occur that the labels seem wild; a few images of a thousand classes are not."""
    expected = total * -math.expm1(images * math.log1p(-1 / total)) if total > 1 else 0.0
    return total > max(FEW_CLASSES, 2 * occurring) or occurring < LEAST_SHARE * expected


def _check_lost_classes(counts: ImageCounts) -> None:
    """Raise `DataError` for a class without usable images, or without any for training, that has unusable ones.

    `ingest.max_bad_share` is for single images.
    """
    train = (counts.names.get("train", Counter()), counts.lost.get("train", Counter()), "train/ ")
    for usable, lost, where in ((counts.by_name(), counts.by_name(lost=True), ""), train):
        for name, count in sorted(lost.items()):
            if name and not usable[name]:
                raise DataError(
                    f"ingest: none of the {count} {where}files of class {name!r} can be used, whatever "
                    "ingest.max_bad_share allows; mend them, or remove the class from the source"
                )
