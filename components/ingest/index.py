"""The first pass of `ingest`: every image is located and keyed, and listed in chunks in the work folder.

A chunk lists at most `CHUNK_IMAGES` images: first a header line, then a line each. No process ever holds the list of
all images, and the chunks of an earlier attempt serve the next one.
"""

from __future__ import annotations

import errno
import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from typing import Any, NamedTuple

from components.contract.api import Context
from components.ingest.detect_layout import LAYOUTS
from components.ingest.layouts.base import ScanContext, SourcePart, SourceParts, unreadable
from components.ingest.source_images import ImageReader, SourceImage, content_key
from vim_core.errors import DataError
from vim_core.storage import io

MAX_CLASSES = 1 << 20
"""Different labels that are taken for classes."""

SHOWN = 3
"""Labels that a message names."""

CHUNK_IMAGES = 1000
"""Images that a chunk lists at most."""

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
"""Errors of writing."""

FEW_GROUPS = 16
"""Groups of parts below which keying by content is shuffled to all workers again: a flat folder is one group."""


FORMAT = 2
"""Rises when chunks of an earlier program would be misread."""


class ChunkHeader(NamedTuple):
    """The first line of a chunk.

    Attributes:
        listed: sha256 of the images as they were listed.
        images: their number.
        dead: how many of them cannot be used.
        names: usable images by split and class name.
        lost: the other images by split and class name.
        labels: usable images by label, for those without a class name; pairs.
        rules: images by the rule of their key.
    """

    listed: str
    images: int
    dead: int
    names: dict[str, dict[str, int]]
    lost: dict[str, dict[str, int]]
    labels: list[tuple[int, int]]
    rules: dict[str, int]


def build_index(context: ScanContext, layout: str, parts: SourceParts, ctx: Context) -> list[str]:
    """List and key all images through Beam; the URIs of the chunks, in the order of the source.

    `context.left_out` counts further what the parts leave out.
    """
    import apache_beam as beam

    from components.engines.beam import run_pipeline, same_code

    starts = range(0, len(parts.parts), parts.group_size)
    groups = [(number, parts.parts[start : start + parts.group_size]) for number, start in enumerate(starts)]

    def build(pipeline: Any) -> None:
        spread = pipeline | "parts of the source" >> beam.Create(groups) | "spread" >> beam.Reshuffle() | same_code()
        unkeyed = spread | "list" >> beam.FlatMapTuple(lambda n, group: index_group(context, layout, n, group))
        if len(groups) < FEW_GROUPS:
            unkeyed = unkeyed | "spread again" >> beam.Reshuffle()
        _ = unkeyed | "key" >> beam.Map(lambda uri: key_by_content(context, uri))

    run_pipeline(ctx.run, build)
    records = {number: _read_record(context, number) for number, _ in groups}
    for record in records.values():
        context.left_out.update(record["left_out"])
    return [uri for number, record in records.items() for uri in _chunk_uris(context, number, record["parts"])]


def index_group(context: ScanContext, layout: str, number: int, group: Sequence[SourcePart]) -> Iterator[str]:
    """List the images of a group of parts; returns the URIs of chunks with images to be keyed by their content."""
    config, context = context.config, replace(context, left_out=Counter())
    known = all(part.state for part in group)
    columns = (config.image_column, config.label_column)
    state = repr((FORMAT, group, config.labelled, config.keys, columns, context.truth)) if known else ""
    record = _read_record(context, number)
    if state and record.get("state") == state:
        yield from (uri for uri in _chunk_uris(context, number, record["parts"]) if not io.exists(uri))
        return
    images = chain.from_iterable(_scan(context, layout, part) for part in group)
    count, unkeyed = 0, list[str]()
    while batch := list(islice(images, CHUNK_IMAGES)):
        uri = _chunk_uris(context, number, count + 1)[-1]
        count += 1
        listed = hashlib.sha256(repr((FORMAT, batch)).encode()).hexdigest()
        header = read_header(uri)
        if header is not None and header.listed == listed:
            continue
        if all(image.key for image in batch):
            _write_chunk(uri, listed, batch)
            continue
        io.remove_tree(uri)  # of other images: a chunk under its own name has all its keys
        _write_chunk(uri + ".raw", listed, batch)
        unkeyed.append(uri)
    # After scanning: files that a layout unpacks can be read only once they are closed.
    yield from unkeyed
    record = {"state": state, "parts": count, "left_out": dict(context.left_out)}
    io.write_bytes(_record_uri(context, number), json.dumps(record).encode())


def _scan(context: ScanContext, layout: str, part: SourcePart) -> Iterator[SourceImage]:
    """The images of a part. Raises `DataError` where its files cannot be read."""
    try:
        yield from LAYOUTS[layout].scan_part(context, part)
    except OSError as error:
        if error.errno in FULL:  # of the work folder, not of the source
            raise
        raise unreadable(part.path, f"cannot be read ({error.strerror or type(error).__name__})") from error


def key_by_content(context: ScanContext, uri: str) -> None:
    """Complete a listed chunk: images without a key get one by their content."""
    header, images = read_chunk(uri + ".raw")
    with ImageReader(context.config, context.work) as reader:

        def with_content_key(image: SourceImage) -> SourceImage:
            try:
                return image if image.key else image._replace(key=content_key(reader.read(image)))
            except DataError as error:
                return image._replace(key=image.source, rule="path", reason=str(error))

        _write_chunk(uri, header.listed, list(reader.map(with_content_key, images)))


def write_chunks(images: Iterator[SourceImage], folder: str) -> list[str]:
    """Write keyed images as chunks; returns their URIs."""
    uris: list[str] = []
    while batch := list(islice(images, CHUNK_IMAGES)):
        uris.append(io.join(folder, f"{len(uris):06d}.jsonl"))
        _write_chunk(uris[-1], hashlib.sha256(repr(batch).encode()).hexdigest(), batch)
    return uris


def _write_chunk(uri: str, listed: str, images: Sequence[SourceImage]) -> None:
    names: dict[str, Counter[str]] = {}
    lost: dict[str, Counter[str]] = {}
    for image in images:
        (lost if image.reason else names).setdefault(image.split, Counter())[image.name] += 1
    labels = Counter(image.label for image in images if not (image.reason or image.name))
    rules = Counter(image.rule for image in images)
    dead = sum(sum(counter.values()) for counter in lost.values())
    header = ChunkHeader(listed, len(images), dead, dict(names), dict(lost), sorted(labels.items()), dict(rules))
    io.write_bytes(uri, "\n".join(json.dumps(line) for line in (header, *images)).encode())


def read_header(uri: str) -> ChunkHeader | None:
    """The header of a chunk; None for a missing file."""
    try:
        with io.open_read(uri) as stream:
            fields = json.loads(stream.readline())
    except FileNotFoundError:
        return None
    return ChunkHeader(*fields) if len(fields) == len(ChunkHeader._fields) else None  # else another program's


@dataclass
class ImageCounts:
    """The headers of all chunks together; `listed` is sha256 over theirs. Attributes as of `ChunkHeader`.

    `names`, `lost` and `labels` hold at most `MAX_CLASSES` each: memory does not grow with wild labels.
    """

    listed: str = ""
    images: int = 0
    dead: int = 0
    names: dict[str, Counter[str]] = field(default_factory=dict)
    lost: dict[str, Counter[str]] = field(default_factory=dict)
    labels: Counter[int] = field(default_factory=Counter)
    rules: Counter[str] = field(default_factory=Counter)

    def by_name(self, lost: bool = False) -> Counter[str]:
        """Usable images, or with `lost` the others, by class name over all splits."""
        return sum((self.lost if lost else self.names).values(), Counter())


def count_images(uris: Sequence[str]) -> ImageCounts:
    """Add up the headers of chunks. Raises `DataError` for more different labels than there can be classes."""
    counts, listed = ImageCounts(), hashlib.sha256()
    for header in filter(None, map(read_header, uris)):
        listed.update(header.listed.encode())
        counts.images += header.images
        counts.dead += header.dead
        for sums, added in ((counts.names, header.names), (counts.lost, header.lost)):
            for split, names in added.items():
                sums.setdefault(split, Counter()).update(names)
        counts.labels.update(dict(header.labels))
        counts.rules.update(header.rules)
        different: list[Counter[Any]] = [counts.labels, *counts.names.values(), *counts.lost.values()]
        for labels in different:
            if len(labels) > MAX_CLASSES:
                some = ", ".join(map(str, list(labels)[:SHOWN]))
                raise DataError(
                    f"ingest: more than {MAX_CLASSES:,} different labels ({some}, …) are no classes; name the column "
                    "or field that holds the class, or set ingest.labelled=false"
                )
    counts.listed = listed.hexdigest()
    return counts


def read_chunk(uri: str) -> tuple[ChunkHeader, Iterator[SourceImage]]:
    """A chunk's header and images."""
    lines = iter(io.read_bytes(uri).splitlines())
    header = ChunkHeader(*json.loads(next(lines)))
    return header, (SourceImage(*json.loads(line)) for line in lines)


def read_chunks(uris: Sequence[str]) -> Iterator[SourceImage]:
    """The images of several chunks, one chunk in memory at a time."""
    for uri in uris:
        yield from read_chunk(uri)[1]


def _chunk_uris(context: ScanContext, number: int, count: int) -> list[str]:
    return [io.join(context.work, "index", f"{number:06d}-{chunk:06d}.jsonl") for chunk in range(count)]


def _record_uri(context: ScanContext, number: int) -> str:
    return io.join(context.work, "index", f"{number:06d}.json")


def _read_record(context: ScanContext, number: int) -> dict[str, Any]:
    """The state of a group's parts and the number of its chunks; empty for a group that was not listed."""
    record: dict[str, Any] = json.loads(io.read_optional(_record_uri(context, number)) or b"{}")
    return record
