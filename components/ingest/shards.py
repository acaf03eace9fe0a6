"""One shard of `ingest`: the images that belong to it, reading and checking them, writing table and record."""

from __future__ import annotations

import hashlib
import heapq
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from components.ingest.plan import SPLITS, IngestPlan
from components.ingest.source_images import ImageReader, SourceImage, placement_key
from vim_core.config import IngestConfig
from vim_core.errors import DataError
from vim_core.storage import io

if TYPE_CHECKING:
    from vim_core.data.image_tables import ImageRow

DeadLetter = tuple[str, str, str]
"""Key, reason and source of an image that cannot be used."""

READ_BYTES = 1 << 15
"""Bytes of a shard's digest lines that are in memory when all are merged."""


@dataclass(frozen=True)
class IngestShard:
    """One output file; `table` is its URI in the work folder, `state` that of the plan."""

    name: str
    split: str
    table: str
    state: str
    config: IngestConfig
    work: str

    @property
    def record(self) -> str:
        """URI of the record beside the table; written last, so that it marks the shard as finished.

        Its first line describes the shard; then comes each image's line of the table's digest, sorted.
        """
        return self.table.removesuffix(".parquet") + ".jsonl"


def make_shards(config: IngestConfig, plan: IngestPlan, work: str) -> list[IngestShard]:
    """All shards, also those that will be empty."""
    return [
        IngestShard(name, split, io.join(work, name), plan.state, config, work)
        for split in SPLITS
        for name in (_shard_name(config, split, index) for index in range(config.shards))
    ]


def shard_of_image(config: IngestConfig, image: SourceImage) -> str:
    """The name of the shard that an image belongs to."""
    from vim_core.data.image_tables import shard_of

    return _shard_name(config, image.split, shard_of(placement_key(image.key), config.shards))


def _shard_name(config: IngestConfig, split: str, index: int) -> str:
    return f"images/{split}-{index:05d}-of-{config.shards:05d}.parquet"


def finished(shard: IngestShard) -> bool:
    """True if an earlier attempt wrote this shard from the same images."""
    try:
        return bool(read_record(shard)["asked"] == shard.state)
    except FileNotFoundError:
        return False


def read_record(shard: IngestShard) -> dict[str, Any]:
    """The description of a finished shard. Raises `FileNotFoundError` for an unfinished one."""
    with io.open_read(shard.record) as stream:
        record: dict[str, Any] = json.loads(stream.readline())
    return record


def write_shard(shard: IngestShard, group: Iterable[Sequence[Any] | None]) -> str:
    """Read, check and write the images of one shard in key order, then its record; returns the shard's name."""
    from vim_core.data.image_tables import digest_line, write_sorted

    images = unique_keys(SourceImage(*image) for image in group if image is not None)
    lines: list[str] = []
    dead: list[DeadLetter] = []
    sizes: set[tuple[int, int]] = set()
    labels: Counter[int] = Counter()
    lost: Counter[int] = Counter()

    def good_rows() -> Iterator[ImageRow]:
        with ImageReader(shard.config, shard.work) as reader:
            rows = reader.map(lambda image: _make_row(shard.config, reader, image), images)
            for row, image in zip(rows, images, strict=True):
                if isinstance(row, tuple):
                    dead.append(row)
                    lost[image.label] += 1
                    continue
                lines.append(digest_line(shard.split, row.key, row.label, hashlib.sha256(row.image).hexdigest()))
                sizes.add((row.height, row.width))
                labels[row.label] += 1
                yield row

    count = write_sorted(shard.table, good_rows())
    text = "".join(f"{line}\n" for line in sorted(lines)).encode()
    record = {
        "asked": shard.state,
        "rows": count,
        "dead": dead,
        "sizes": sorted(sizes)[:2],
        "lines": len(text),
        "labels": sorted(labels.items()),
        "lost_labels": sorted(lost.items()),
    }
    io.write_bytes(shard.record, json.dumps(record).encode() + b"\n" + text)
    return shard.name


def unique_keys(images: Iterable[SourceImage]) -> list[SourceImage]:
    """Images in key order, each key once: equal contents get their occurrence, other repeated keys become a reason."""
    result: list[SourceImage] = []
    occurrences: Counter[str] = Counter()
    sources: dict[str, str] = {}
    for image in sorted(images, key=lambda image: (image.key, image.label, image.source)):
        if image.rule == "content":
            image = image._replace(key=f"{image.key}-{occurrences[image.key]}")
            occurrences[placement_key(image.key)] += 1
        elif not image.reason and sources.setdefault(image.key, image.source) != image.source:
            image = image._replace(reason=f"its key is taken by {sources[image.key]}")
        result.append(image)
    return sorted(result, key=lambda image: (image.key, image.source))


def _make_row(config: IngestConfig, reader: ImageReader, image: SourceImage) -> ImageRow | DeadLetter:
    from vim_core.data.image_tables import ImageRow
    from vim_core.data.images import center_crop, decode, encode_png, image_size

    if image.reason:
        return image.key, image.reason, image.source
    try:
        data = reader.read(image)
        if not config.resize:
            height, width = image_size(data, config.max_pixels)
            return ImageRow(image.key, image.label, data, height, width, image.source)
        pixels = center_crop(decode(data, config.max_pixels), config.resize)  # uint8 [resize, resize, 3]
        return ImageRow(image.key, image.label, encode_png(pixels), config.resize, config.resize, image.source)
    except DataError as error:
        return image.key, str(error), image.source


def table_digest(shards: Iterable[IngestShard], records: Mapping[str, Any]) -> str:
    """The digest of the image table from the sorted lines of its shards, merged without holding all of them."""
    from vim_core.data.image_tables import sorted_table_digest

    return sorted_table_digest(
        heapq.merge(*(_last_lines(shard.record, records[shard.name]["lines"]) for shard in shards))
    )


def _last_lines(uri: str, size: int) -> Iterator[str]:
    """The last `size` bytes of a file by lines."""
    if not size:
        return
    fs, path = io.filesystem(uri)
    stop = int(fs.size(path))
    rest = b""
    for start in range(stop - size, stop, READ_BYTES):
        *complete, rest = (rest + io.read_range(uri, start, min(start + READ_BYTES, stop))).split(b"\n")
        yield from (line.decode() for line in complete)
