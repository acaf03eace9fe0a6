"""What one worker with one thread makes of ImageNet's photos, and what that takes on disk: the rates behind `costs`.

Images are the original ones of `VIM_TEST_DATA` where it is set, else made up. Networks have random weights.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.benchmarks.harness import Bench, Row, installed
from tests.benchmarks.ingesting import made_photos, real_photos
from tests.benchmarks.tokenizing import PEER, Size, Work, fp32, one_thread
from vim_core.data.code_files import CodeMeta, write_codes
from vim_core.data.image_tables import ImageRow, ImageTable, write_images
from vim_core.data.images import decode
from vim_core.metrics.frechet import Moments
from vim_core.models.sizes import TOKENIZER_STACKS

TOKENIZE, STATISTICS = "tokenize at 256x256", "statistics by Inception"
IMAGES, CODES = "image table", "code table, uniform random codes"
SMALL = TOKENIZER_STACKS["small"]
SIZE = Size(images=16, shards=1, stack=SMALL, side=256, batch=8, codes=8192)
TOY = Size(images=3, shards=1, stack=dataclasses.replace(SMALL, blocks=1, heads=2, dim=16, mlp=32), side=16, batch=2)
BATCH = 16
ROUNDS = 3


def imagenet_rates(bench: Bench) -> list[Row]:
    """Images a second and a megabyte."""
    real = bool(os.environ.get("VIM_TEST_DATA")) and not bench.toy
    photos = real_photos() if real else made_photos(3 if bench.toy else 64)
    kind = f"{len(photos)} {'ImageNet' if real else 'made-up'} JPEGs"
    rows = [_image_table(bench, photos, kind), _code_table(bench)]
    if not installed("apache_beam"):
        names = ((TOKENIZE, kind), (STATISTICS, kind))
        return [*rows, *(bench.absent(name, "images/s", PEER, of, "Beam is not installed") for name, of in names)]
    bench = dataclasses.replace(bench, repeats=min(bench.repeats, ROUNDS))
    with one_thread():
        found = [_tokenize(bench, photos, kind), _statistics(bench, photos, kind), *rows]
        return [fp32(row) for row in found]


def _tokenize(bench: Bench, photos: Sequence[bytes], kind: str) -> Row:
    size = TOY if bench.toy else SIZE
    work = Work(bench, size, photos)
    tokens = f"{(size.side // size.patch) ** 2} tokens, {size.stack.blocks} blocks of {size.stack.dim}"
    words = f"{size.images} of {kind}, {tokens}"
    return bench.compare(TOKENIZE, "images/s", size.images, work.by_beam(1), work.by_loop, PEER, words)


def _statistics(bench: Bench, photos: Sequence[bytes], kind: str) -> Row:
    """Decoding, the network and its moments, by Beam and by a loop."""
    measured = Measured(bench.folder / "statistics", photos[: 2 if bench.toy else 3 * BATCH])
    peer, words = "bare loop of the same decoder and network", f"{measured.images} of {kind}, 299x299"
    sides = measured.by_beam, measured.by_loop
    return bench.compare(STATISTICS, "images/s", measured.images, *sides, peer, words)


class Measured:
    """A table of photos and Inception's network with random weights, brought together in two ways."""

    def __init__(self, folder: Path, photos: Sequence[bytes]) -> None:
        from safetensors.torch import save_file

        from components.statistics.networks import cached_extractor
        from components.statistics.shards import StatisticsShard
        from tests.support.random_inception import state
        from vim_core.features import FeatureSpec

        self.folder, self.images = folder, len(photos)
        rows = [ImageRow(f"{index:06d}", 0, data, 0, 0, "photo") for index, data in enumerate(photos)]
        self.table = str(folder / "images")
        write_images(self.table, rows)
        weights = folder / "inception.safetensors"
        save_file(state(), weights)
        spec = FeatureSpec("inception", str(weights), sha256=hashlib.sha256(weights.read_bytes()).hexdigest())
        self.extractor = cached_extractor(spec)
        self.shard = StatisticsShard(
            0, "train", self.table, str(folder / "made"), ("moments/train.npz",), ("moments/train-00000.npz",),
            BATCH, spec, 1, 100_000_000, False, 0, 0,
        )  # fmt: skip

    def by_beam(self) -> None:
        """The component's own step."""
        import apache_beam as beam

        from components.engines.beam import run_pipeline
        from components.statistics.shards import measure
        from vim_core.config import RunConfig

        shutil.rmtree(self.folder / "made", ignore_errors=True)

        def build(pipeline: Any) -> None:
            _ = pipeline | beam.Create([self.shard]) | beam.Map(measure)

        run_pipeline(RunConfig(threads=1, device="cpu"), build)
        if not Path(self.shard.files[0]).exists():
            raise RuntimeError("no statistics were written")

    def by_loop(self) -> None:
        """What anybody would write first."""
        table, moments = ImageTable([self.table]), Moments.empty(self.extractor.dim)
        for start in range(0, len(table), BATCH):
            images = [self.extractor.prepare(decode(data)) for data in table.images(start, start + BATCH)]
            moments = moments.merge(Moments.from_batch(self.extractor.extract(torch.stack(images)).features))


def _image_table(bench: Bench, photos: Sequence[bytes], kind: str) -> Row:
    """Images a megabyte of their table, beside the files alone."""
    path = bench.folder / "table"
    rows = [ImageRow(f"n01440764_{index:05d}", 0, data, 375, 500, "photo") for index, data in enumerate(photos)]
    write_images(str(path), rows)
    rates = per_megabyte(len(photos), path.stat().st_size), per_megabyte(len(photos), sum(map(len, photos)))
    return bench.faster(IMAGES, "images/MB", rates, "the files alone", kind)


def _code_table(bench: Bench) -> Row:
    """Images a megabyte of codes that no compression helps; those of a trained tokenizer take less."""
    count, side, codes = (16, 4, 64) if bench.toy else (4096, 32, SIZE.codes)
    drawn = np.random.default_rng(0).integers(0, codes, (count, side * side), dtype=np.uint16)
    path = bench.folder / "codes"
    keys = [f"n01440764_{index:05d}" for index in range(count)]
    zeros = np.zeros(count, dtype=np.int64)
    write_codes(str(path), keys, zeros, zeros, drawn, CodeMeta("train", (side, side), codes, "benchmark"))
    rates = per_megabyte(count, path.stat().st_size), per_megabyte(count, drawn.nbytes)
    shape = f"{count} images of {side * side} codes among {codes}"
    return bench.faster(CODES, "images/MB", rates, "two bytes a code", shape)


def per_megabyte(images: int, size: int) -> float:
    """Images in a million bytes."""
    return images / size * 1e6
