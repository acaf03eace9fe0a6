"""One shard of `ingest`: which images belong to it, reading and checking them, writing table and record."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from components.ingesting.plan import DIGITS, SPLITS, Dead, Located, Plan
from vim_core import io
from vim_core.config import IngestConfig
from vim_core.errors import DataError

if TYPE_CHECKING:
    from vim_core.data.tables import ImageRow


@dataclass(frozen=True)
class Shard:
    """One output file: where its table lies while it is made, and what was asked (a hash of its keys and labels)."""

    name: str
    split: str
    table: str
    asked: str
    settings: IngestConfig

    @property
    def record(self) -> str:
        """The record beside the table; written last, so that it marks the shard as finished."""
        return self.table.removesuffix(".parquet") + ".json"


def assign(config: IngestConfig, plan: Plan, work: str) -> tuple[list[Shard], list[tuple[str, Located]]]:
    """All shards, also empty ones, and every usable image with the name of its shard."""
    from vim_core.data.tables import shard_of

    located: list[tuple[str, Located]] = []
    shards: list[Shard] = []
    for split in SPLITS:
        names = [f"images/{split}-{index:05d}-of-{config.shards:05d}.parquet" for index in range(config.shards)]
        hashes = {name: hashlib.sha256() for name in names}
        for image in plan.images[split]:
            name = names[shard_of(image[0], config.shards)]
            hashes[name].update(repr(image).encode())
            located.append((name, image))
        shards += [Shard(name, split, io.join(work, name), hashes[name].hexdigest(), config) for name in names]
    return shards, located


def finished(shard: Shard) -> bool:
    """Whether an earlier attempt wrote this shard from the same images."""
    try:
        return bool(json.loads(io.read_bytes(shard.record))["asked"] == shard.asked)
    except FileNotFoundError:
        return False


def write_shard(shard: Shard, group: Iterable[Located | None]) -> str:
    """Read, check and write the images of one shard in key order; then its record."""
    from vim_core.data.tables import digest_line, write_sorted

    lines: list[str] = []
    dead: list[Dead] = []
    sizes: set[tuple[int, int]] = set()

    def noted() -> Iterator[ImageRow]:
        for row in _rows(shard.settings, sorted(image for image in group if image is not None), dead):
            lines.append(digest_line(shard.split, row.key, row.label, hashlib.sha256(row.image).hexdigest()))
            sizes.add((row.height, row.width))
            yield row

    count = write_sorted(shard.table, noted())
    record = {"asked": shard.asked, "rows": count, "lines": lines, "dead": dead, "sizes": sorted(sizes)[:2]}
    io.write_bytes(shard.record, json.dumps(record).encode())
    return shard.name


def _rows(config: IngestConfig, images: list[Located], dead: list[Dead]) -> Iterator[ImageRow]:
    from vim_core.data.images import decode, encode_png, square
    from vim_core.data.tables import ImageRow

    reader = _reader(config)
    for key, label, path in images:
        try:
            data = reader(path)
            pixels = decode(data, config.max_pixels)
        except DataError as error:
            dead.append((key, str(error), path))
            continue
        if config.resize:
            pixels = square(pixels, config.resize)
            data = encode_png(pixels)
        yield ImageRow(key, label, data, pixels.shape[0], pixels.shape[1], _source(config, path))


def _reader(config: IngestConfig) -> Callable[[str], bytes]:
    from vim_core.data import digits, folders

    if config.source == DIGITS:
        return lambda path: digits.png(int(path))
    return lambda path: folders.read(config.source, path)


def _source(config: IngestConfig, path: str) -> str:
    return f"{DIGITS}/{path}" if config.source == DIGITS else path
