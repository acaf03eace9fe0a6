"""One shard of `ingest`: which images belong to it, reading and checking them, writing table and record."""

from __future__ import annotations

import hashlib
import heapq
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from components.ingest.locator import Located, Reader, placing_key
from components.ingest.plan import SPLITS, Plan
from vim_core.config import IngestConfig
from vim_core.errors import DataError
from vim_core.storage import io

if TYPE_CHECKING:
    from vim_core.data.image_tables import ImageRow

Dead = tuple[str, str, str]
"""Key, reason and source of an image that cannot be used."""

CHUNK = 1 << 15
"""Bytes of a shard's digest lines that are held in memory when all are merged."""


@dataclass(frozen=True)
class Shard:
    """One output file: where its table lies while it is made, and a hash of all that was asked."""

    name: str
    split: str
    table: str
    asked: str
    settings: IngestConfig
    work: str

    @property
    def record(self) -> str:
        """The record beside the table; written last, so that it marks the shard as finished.

        Its first line says what is in the shard; then comes what each image contributes to the digest, sorted.
        """
        return self.table.removesuffix(".parquet") + ".jsonl"


def shards_of(config: IngestConfig, plan: Plan, work: str) -> list[Shard]:
    """All shards, also those that will be empty."""
    return [
        Shard(name, split, io.join(work, name), plan.asked, config, work)
        for split in SPLITS
        for name in (shard_name(config, split, index) for index in range(config.shards))
    ]


def shard_name(config: IngestConfig, split: str, index: int) -> str:
    """The logical name of a shard."""
    return f"images/{split}-{index:05d}-of-{config.shards:05d}.parquet"


def shard_for(config: IngestConfig, image: Located) -> str:
    """The name of the shard that an image belongs to."""
    from vim_core.data.image_tables import shard_of

    return shard_name(config, image.split, shard_of(placing_key(image.key), config.shards))


def finished(shard: Shard) -> bool:
    """Whether an earlier attempt wrote this shard from the same images."""
    try:
        return bool(read_record(shard)["asked"] == shard.asked)
    except FileNotFoundError:
        return False


def read_record(shard: Shard) -> dict[str, Any]:
    """What a finished shard says of itself. Raises `FileNotFoundError`."""
    with io.open_read(shard.record) as stream:
        found: dict[str, Any] = json.loads(stream.readline())
    return found


def write_shard(shard: Shard, group: Iterable[Sequence[Any] | None]) -> str:
    """Read, check and write the images of one shard in key order; then its record."""
    from vim_core.data.image_tables import digest_line, write_sorted

    images = numbered(Located(*image) for image in group if image is not None)
    lines: list[str] = []
    dead: list[Dead] = []
    sizes: set[tuple[int, int]] = set()
    labels: Counter[int] = Counter()

    def noted() -> Iterator[ImageRow]:
        for row in _rows(shard, images):
            if isinstance(row, tuple):
                dead.append(row)
                continue
            lines.append(digest_line(shard.split, row.key, row.label, hashlib.sha256(row.image).hexdigest()))
            sizes.add((row.height, row.width))
            labels[row.label] += 1
            yield row

    count = write_sorted(shard.table, noted())
    text = "".join(f"{line}\n" for line in sorted(lines)).encode()
    record = {"asked": shard.asked, "rows": count, "dead": dead, "sizes": sorted(sizes)[:2], "lines": len(text)}
    head = json.dumps(record | {"labels": sorted(labels.items())}).encode()
    io.write_bytes(shard.record, head + b"\n" + text)
    return shard.name


def numbered(images: Iterable[Located]) -> list[Located]:
    """Images in key order, each key once: equal contents are counted, a key that is taken becomes a reason."""
    found: list[Located] = []
    taken: Counter[str] = Counter()
    by_key: dict[str, str] = {}
    for image in sorted(images, key=lambda each: (each.key, each.label, each.source)):
        if image.rule == "content":
            image = image._replace(key=f"{image.key}-{taken[image.key]}")
            taken[placing_key(image.key)] += 1
        elif not image.reason and by_key.setdefault(image.key, image.source) != image.source:
            image = image._replace(reason=f"its key is taken by {by_key[image.key]}")
        found.append(image)
    return sorted(found, key=lambda each: (each.key, each.source))


def _rows(shard: Shard, images: Iterable[Located]) -> Iterator[ImageRow | Dead]:
    with Reader(shard.settings, shard.work) as reader:
        yield from reader.each(images, lambda image: _row(shard.settings, reader, image))


def _row(config: IngestConfig, reader: Reader, image: Located) -> ImageRow | Dead:
    from vim_core.data.image_tables import ImageRow
    from vim_core.data.images import center_crop, decode, encode_png, image_size

    if image.reason:
        return image.key, image.reason, image.source
    try:
        data = reader.read(image)
        if not config.resize:
            height, width = image_size(data, config.max_pixels)
            return ImageRow(image.key, image.label, data, height, width, image.source)
        pixels = center_crop(decode(data, config.max_pixels), config.resize)
        return ImageRow(image.key, image.label, encode_png(pixels), config.resize, config.resize, image.source)
    except DataError as error:
        return image.key, str(error), image.source


def digest_of_shards(shards: Iterable[Shard], records: Mapping[str, Any]) -> str:
    """The digest of a whole image table from the sorted lines of its shards, never holding all of them."""
    from vim_core.data.image_tables import sorted_table_digest

    return sorted_table_digest(heapq.merge(*(_lines(shard.record, records[shard.name]["lines"]) for shard in shards)))


def _lines(uri: str, size: int) -> Iterator[str]:
    """The last `size` bytes of a file by lines."""
    if not size:
        return
    fs, path = io.filesystem(uri)
    stop = int(fs.size(path))
    rest = b""
    for start in range(stop - size, stop, CHUNK):
        *whole, rest = (rest + io.read_range(uri, start, min(start + CHUNK, stop))).split(b"\n")
        yield from (line.decode() for line in whole)
