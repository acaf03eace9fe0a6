"""The first pass of `ingest`: every image is located and keyed, and listed in chunks in the work folder.

A chunk lists at most `CHUNK_IMAGES` images: first a header line, then a line each. No process ever holds the list of
all images, and the chunks of an earlier attempt serve the next one.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from typing import Any, NamedTuple

from components.contract.api import Context
from components.ingest.detect_layout import LAYOUTS
from components.ingest.layouts.base import ScanContext, SourcePart, SourceParts
from components.ingest.source_images import ImageReader, SourceImage
from vim_core.errors import DataError
from vim_core.storage import io

CHUNK_IMAGES = 1000
"""Images that a chunk lists at most."""

FEW_GROUPS = 16
"""Groups of parts below which keying by content is shuffled to all workers again: a flat folder is one group."""


class ChunkHeader(NamedTuple):
    """The first line of a chunk.

    Attributes:
        listed: sha256 of the images as they were listed.
        images: their number.
        dead: how many of them cannot be used.
        names: usable images by split and class name.
        highest: the highest label, -1 for none.
        rules: images by the rule of their key.
    """

    listed: str
    images: int
    dead: int
    names: dict[str, dict[str, int]]
    highest: int
    rules: dict[str, int]


def build_index(context: ScanContext, layout: str, parts: SourceParts, ctx: Context) -> list[str]:
    """List and key all images through Beam; the URIs of the chunks, in the order of the source."""
    import apache_beam as beam

    from components.engines.beam import run_pipeline

    starts = range(0, len(parts.parts), parts.group_size)
    groups = [(number, parts.parts[start : start + parts.group_size]) for number, start in enumerate(starts)]

    def build(pipeline: Any) -> None:
        spread = pipeline | "parts of the source" >> beam.Create(groups) | "spread" >> beam.Reshuffle()
        unkeyed = spread | "list" >> beam.FlatMapTuple(lambda n, group: index_group(context, layout, n, group))
        if len(groups) < FEW_GROUPS:
            unkeyed = unkeyed | "spread again" >> beam.Reshuffle()
        _ = unkeyed | "key" >> beam.Map(lambda uri: key_by_content(context, uri))

    run_pipeline(ctx.run, build)
    return [uri for number, _ in groups for uri in _chunk_uris(context, number, _read_record(context, number)["parts"])]


def index_group(context: ScanContext, layout: str, number: int, group: Sequence[SourcePart]) -> Iterator[str]:
    """List the images of a group of parts; returns the URIs of chunks with images to be keyed by their content."""
    known = all(part.state for part in group)
    state = repr((group, context.config.labelled, context.config.keys, context.truth)) if known else ""
    record = _read_record(context, number)
    if state and record.get("state") == state:
        yield from (uri for uri in _chunk_uris(context, number, record["parts"]) if not io.exists(uri))
        return
    images = chain.from_iterable(LAYOUTS[layout].scan_part(context, part) for part in group)
    count, unkeyed = 0, list[str]()
    while batch := list(islice(images, CHUNK_IMAGES)):
        uri = _chunk_uris(context, number, count + 1)[-1]
        count += 1
        listed = hashlib.sha256(repr(batch).encode()).hexdigest()
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
    io.write_bytes(_record_uri(context, number), json.dumps({"state": state, "parts": count}).encode())


def key_by_content(context: ScanContext, uri: str) -> None:
    """Complete a listed chunk: images without a key get one by their content."""
    header, images = read_chunk(uri + ".raw")
    with ImageReader(context.config, context.work) as reader:

        def with_content_key(image: SourceImage) -> SourceImage:
            try:
                return image if image.key else image._replace(key=hashlib.sha256(reader.read(image)).hexdigest()[:16])
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
    usable = [image for image in images if not image.reason]
    for image in usable:
        names.setdefault(image.split, Counter())[image.name] += 1
    highest = max((image.label for image in usable), default=-1)
    rules = Counter(image.rule for image in images)
    counts = {split: dict(counter) for split, counter in names.items()}
    header = ChunkHeader(listed, len(images), len(images) - len(usable), counts, highest, dict(rules))
    io.write_bytes(uri, "\n".join(json.dumps(line) for line in (header, *images)).encode())


def read_header(uri: str) -> ChunkHeader | None:
    """The header of a chunk; None for a missing file."""
    try:
        with io.open_read(uri) as stream:
            return ChunkHeader(*json.loads(stream.readline()))
    except FileNotFoundError:
        return None


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
