"""The plan of `ingest`: the class and split of every image of the source, before any of them is decoded."""

from __future__ import annotations

import hashlib
import heapq
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field

from components.contract.api import Context
from components.ingest.class_lists import find_classes, first_label
from components.ingest.detect_layout import LAYOUTS, detect_layout, scan_context
from components.ingest.index import ImageCounts, build_index, count_images, read_chunks, write_chunks
from components.ingest.labels import ClassList
from components.ingest.source_images import NO_LABEL, SourceImage, placement_key
from vim_core.config import IngestConfig
from vim_core.data.folders import SplitList, assign_splits, read_list, side_in_path, split_by_hash
from vim_core.errors import DataError
from vim_core.storage import io

SPLITS = ("train", "test")
FILES = ("webdataset", "tfrecord", "parquet", "ilsvrc")
"""Layouts whose files may be named after their split."""


@dataclass(frozen=True)
class IngestPlan:
    """The images of the source, listed in chunks, with their classes.

    Attributes:
        layout: name of the source's layout.
        chunks: URIs of the chunks (see `index`), in the order of the source.
        classes: the classes.
        total: images to account for.
        dead: how many of them are known to be unusable before they are read.
        left_out: images in neither list of `ingest.split=lists`; they are not part of `total`.
        left_out_files: files of many images, or folders, on neither side of `ingest.split=folders`, unread.
        left_out_kinds: files of the system and further pictures that are not read, by kind.
        rules: images by the rule of their key.
        label_numbers: the label by the number that the source has, where they differ.
        state: changes with everything that the shards depend on.
    """

    layout: str
    chunks: list[str]
    classes: ClassList
    total: int
    dead: int
    left_out: int
    left_out_files: list[str] = field(default_factory=list)
    left_out_kinds: dict[str, int] = field(default_factory=dict)
    rules: dict[str, int] = field(default_factory=dict)
    label_numbers: dict[int, int] = field(default_factory=dict)
    state: str = ""


def split_lists(config: IngestConfig) -> list[SplitList]:
    """The two lists of `ingest.split=lists`; none for other splits. Raises `DataError` for an unreadable one."""
    if config.split != "lists":
        return []
    return [
        read_list(config.train_list, "ingest.train_list", "train"),
        read_list(config.test_list, "ingest.test_list", "test"),
    ]


def make_plan(config: IngestConfig, ctx: Context) -> IngestPlan:
    """List the images of the source and find their classes.

    Raises:
        DataError: the source is missing, empty, unreadable or of two meanings, or all images of a class are unusable.
    """
    try:
        layout = detect_layout(config)
        context = scan_context(config, layout, ctx.work)
        parts = LAYOUTS[layout].find_parts(context)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise DataError(
            f"ingest.source={config.source}: {error.filename or 'a file'}: cannot be read ({reason})"
        ) from error
    if not parts.parts:
        raise DataError(f"ingest.layout={layout}: no such files at {config.source} for ingest.split={config.split}")
    if config.split == "hash" and len({side_in_path(part.path) for part in parts.parts} - {""}) > 1 and layout in FILES:
        ctx.progress.note(
            "ingest: files of several splits are pooled; ingest.split=folders keeps the source's own split"
        )
    chunks, left_out = build_index(context, layout, parts, ctx), 0
    first = first_label(layout, count_images(chunks))
    if config.split == "lists":
        chunks, left_out = _listed_images(config, chunks, io.join(ctx.work, "listed"))
    if config.limit:
        chunks = _limited_images(config.limit, chunks, io.join(ctx.work, "limited"))
    counts = count_images(chunks)
    classes, numbers = find_classes(context, layout, parts, counts, first)
    settings = json.dumps([asdict(config), classes.ids, sorted(numbers.items()), counts.listed])
    return IngestPlan(
        layout=layout,
        chunks=chunks,
        classes=classes,
        total=counts.images,
        dead=counts.dead + _unknown(config, classes, counts, numbers),
        left_out=left_out,
        left_out_files=parts.left_out,
        left_out_kinds=dict(sorted(context.left_out.items())),
        rules=dict(counts.rules),
        label_numbers=numbers,
        state=hashlib.sha256(settings.encode()).hexdigest(),
    )


def _unknown(config: IngestConfig, classes: ClassList, counts: ImageCounts, numbers: dict[int, int]) -> int:
    """The number of usable images whose class is not among the classes."""
    if not config.labelled:
        return 0
    known = classes.labels()
    strange = [count for name, count in counts.by_name().items() if name and name not in known]
    strange += [n for label, n in counts.labels.items() if not 0 <= numbers.get(label, label) < len(classes.ids)]
    return sum(strange)


def assigner(config: IngestConfig, plan: IngestPlan) -> Callable[[SourceImage], SourceImage]:
    """A function that gives an image its label and split, or the reason why it belongs to no class."""
    classes, numbers = plan.classes, plan.label_numbers
    labels = classes.labels()

    def assign(image: SourceImage) -> SourceImage:
        label, reason = numbers.get(image.label, image.label), image.reason
        if not config.labelled:
            label = NO_LABEL
        elif image.name:
            label = labels.get(image.name, NO_LABEL)
            strange = "" if label != NO_LABEL else f"class {image.name!r} is not among {classes.origin}"
            reason = reason or strange
        elif not reason and not 0 <= label < len(classes.ids):
            reason = f"class {label} is not among the {len(classes.ids)} of {classes.origin}"
        split = image.split or split_by_hash(placement_key(image.key), config.test_fraction)
        return image._replace(label=label, split=split, reason=reason)

    return assign


def _listed_images(config: IngestConfig, chunks: Sequence[str], folder: str) -> tuple[list[str], int]:
    """Chunks of the images in the lists and of the lines without an image, and the number of images in neither list.

    This holds the paths of all images in memory: the image of a line depends on all of them.
    """
    splits, missing = assign_splits((image.source for image in read_chunks(chunks)), split_lists(config))

    def listed() -> Iterator[SourceImage]:
        for image in read_chunks(chunks):
            if image.source in splits:
                yield image._replace(split=splits[image.source])
        for line, reason in missing:
            yield SourceImage(line, "path", "", "", NO_LABEL, line, "", "", reason=reason)

    return write_chunks(listed(), folder), count_images(chunks).images - len(splits)


def _limited_images(limit: int, chunks: Sequence[str], folder: str) -> list[str]:
    """Chunks of the `limit` images of the lowest hash, which is not the hash that decides the split."""
    from vim_core.data.image_tables import stable_hash

    def rank(image: SourceImage) -> tuple[int, str]:
        return stable_hash("limit", image.key), image.source

    lowest = heapq.nsmallest(limit, map(rank, read_chunks(chunks)))
    return write_chunks((image for image in read_chunks(chunks) if rank(image) <= lowest[-1]), folder)
