"""The plan of `ingest`: the class and split of every image of the source, before any of them is decoded."""

from __future__ import annotations

import hashlib
import heapq
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field

from components.contract.api import Context
from components.ingest.detect_layout import LAYOUTS, detect_layout, scan_context
from components.ingest.index import ChunkHeader, build_index, read_chunks, read_header, write_chunks
from components.ingest.labels import ClassList
from components.ingest.layouts.base import ScanContext, SourceParts
from components.ingest.source_images import NO_LABEL, SourceImage, placement_key
from vim_core.config import IngestConfig
from vim_core.data.folders import SplitList, assign_splits, read_list, split_by_hash
from vim_core.errors import DataError
from vim_core.storage import io

SPLITS = ("train", "test")


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
        left_out_files: files of many images on neither side of `ingest.split=folders`, unread.
        rules: images by the rule of their key.
        state: changes with everything that the shards depend on.
    """

    layout: str
    chunks: list[str]
    classes: ClassList
    total: int
    dead: int
    left_out: int
    left_out_files: list[str] = field(default_factory=list)
    rules: dict[str, int] = field(default_factory=dict)
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
    """List the images of the source and find their classes. Raises `DataError` for a missing or empty source."""
    layout = detect_layout(config)
    context = scan_context(config, layout, ctx.work)
    parts = LAYOUTS[layout].find_parts(context)
    if not parts.parts:
        raise DataError(f"ingest.layout={layout}: no such files at {config.source} for ingest.split={config.split}")
    chunks, left_out = build_index(context, layout, parts, ctx), 0
    if config.split == "lists":
        chunks, left_out = _listed_images(config, chunks, io.join(ctx.work, "listed"))
    if config.limit:
        chunks = _limited_images(config.limit, chunks, io.join(ctx.work, "limited"))
    headers = [header for uri in chunks if (header := read_header(uri)) is not None]
    classes = _find_classes(context, parts, headers)
    labels = classes.labels()
    unknown = sum(
        count
        for header in headers
        for names in header.names.values()
        for name, count in names.items()
        if config.labelled and name and name not in labels
    )
    settings = json.dumps([asdict(config), classes.ids, [header.listed for header in headers]])
    return IngestPlan(
        layout=layout,
        chunks=chunks,
        classes=classes,
        total=sum(header.images for header in headers),
        dead=sum(header.dead for header in headers) + unknown,
        left_out=left_out,
        left_out_files=parts.left_out,
        rules=dict(sum((Counter(header.rules) for header in headers), Counter())),
        state=hashlib.sha256(settings.encode()).hexdigest(),
    )


def assigner(config: IngestConfig, classes: ClassList) -> Callable[[SourceImage], SourceImage]:
    """A function that gives an image its label and split, or the reason why it belongs to no class."""
    labels = classes.labels()

    def assign(image: SourceImage) -> SourceImage:
        label, reason = image.label, image.reason
        if not config.labelled:
            label = NO_LABEL
        elif not reason and image.name:
            label = labels.get(image.name, NO_LABEL)
            reason = "" if label != NO_LABEL else f"class {image.name!r} is not among {classes.origin}"
        elif not reason and not 0 <= label < len(classes.ids):
            reason = f"class {label} is not among the {len(classes.ids)} of {classes.origin}"
        split = image.split or split_by_hash(placement_key(image.key), config.test_fraction)
        return image._replace(label=label, split=split, reason=reason)

    return assign


def _find_classes(context: ScanContext, parts: SourceParts, headers: Sequence[ChunkHeader]) -> ClassList:
    """The classes by the settings, else by the source, else those of the training images by name."""
    config = context.config
    if not config.labelled:
        return ClassList()
    if config.classes:
        return ClassList(tuple(config.classes), tuple(config.classes), "ingest.classes")
    if context.classes:
        return context.classes
    if parts.classes:
        return ClassList(parts.classes, parts.classes, "the classes that the source names")
    split = "" if config.split == "hash" else "train"
    names = sorted({name for header in headers for name in header.names.get(split, {}) if name})
    if not names:  # numbers alone: they are kept unchanged, also if some are missing
        names = [str(label) for label in range(max((header.highest for header in headers), default=-1) + 1)]
    train = "train/" if config.split == "folders" else "ingest.train_list"
    return ClassList(tuple(names), tuple(names), f"the classes of {train}")


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

    total = sum(header.images for uri in chunks if (header := read_header(uri)) is not None)
    return write_chunks(listed(), folder), total - len(splits)


def _limited_images(limit: int, chunks: Sequence[str], folder: str) -> list[str]:
    """Chunks of the `limit` images of the lowest hash, which is not the hash that decides the split."""
    from vim_core.data.image_tables import stable_hash

    def rank(image: SourceImage) -> tuple[int, str]:
        return stable_hash("limit", image.key), image.source

    lowest = heapq.nsmallest(limit, map(rank, read_chunks(chunks)))
    return write_chunks((image for image in read_chunks(chunks) if rank(image) <= lowest[-1]), folder)
