"""The three stages of tokenizing a shard: decode, encode, write; Beam and the Ray actors here run the same functions.

Every batch has the tokenizer's `encode_batch` images, except a shard's last one, which the tokenizer pads (contract 7).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from components.contract.api import Context
from components.engines import devices
from components.tokenize.plan import TokenizePlan, TokenizeShard
from vim_core.data.code_files import write_codes
from vim_core.data.image_loader import augment
from vim_core.data.image_tables import ImageTable
from vim_core.data.images import Pixels, center_crop, decode, to_tensor
from vim_core.errors import DataError
from vim_core.storage import io

if TYPE_CHECKING:
    from vim_core.models.vit_vqgan import Tokenizer


@dataclass(frozen=True)
class Batch:
    """Batch `index` of the `batches` of a shard: rows with key, label and view.

    `values` are pixels uint8 [b, S, S, 3] until they are encoded, then codes [b, T].
    """

    shard: TokenizeShard
    index: int
    batches: int
    keys: list[str]
    labels: list[int]
    views: list[int]
    values: NDArray[Any]

    def __len__(self) -> int:
        return len(self.keys)


def decode_shard(plan: TokenizePlan, shard: TokenizeShard) -> Iterator[Batch]:
    """All views of a shard's images by batches; each image is decoded once, and an empty shard is one empty batch.

    Raises:
        DataError: an image cannot be decoded, or the file is missing or damaged.
    """
    table, size = ImageTable([shard.images]), plan.image_size
    views = plan.metas[shard.split].views
    total = len(table) * views
    batches = max(1, -(-total // plan.encode_batch))
    keys: list[str] = []
    labels: list[int] = []
    numbers: list[int] = []
    pixels: list[Pixels] = []

    def batch(index: int) -> Batch:
        stacked = np.stack(pixels) if pixels else np.empty((0, size, size, 3), np.uint8)  # [b, S, S, 3]
        return Batch(shard, index, batches, keys, labels, numbers, stacked)

    index = 0
    for row, key in enumerate(table.keys):
        try:
            image = decode(table.image(row), plan.max_pixels)
        except DataError as error:
            raise DataError(f"{shard.images}: image {key!r}: {error}") from error
        for view in range(views):
            keys.append(key)
            labels.append(int(table.labels[row]))
            numbers.append(view)
            # View 0 is the centre square; the augmentation of the others is keyed by (seed, key, view).
            plain = view == 0
            pixels.append(
                center_crop(image, size) if plain else augment(image, size, plan.augment, (plan.seed, key, view))
            )
            if len(keys) == plan.encode_batch:
                yield batch(index)
                index, keys, labels, numbers, pixels = index + 1, [], [], [], []
    if keys or not total:
        yield batch(index)


def encode_batch(batch: Batch, tokenizer: Tokenizer) -> Batch:
    """The batch through the tokenizer's one encode; codes are uint16, or uint32 for a vocabulary above 65,536."""
    codes = tokenizer.encode(to_tensor(batch.values)).numpy()  # [b, T]
    return replace(batch, values=codes.astype(np.uint16 if tokenizer.vocabulary <= 1 << 16 else np.uint32))


def write_batches(plan: TokenizePlan, batches: Mapping[int, Batch]) -> str:
    """Write a shard's code file from all its batches by index, as one atomic act; returns the shard's name."""
    ordered = [batches[index] for index in sorted(batches)]
    shard = ordered[0].shard
    write_codes(
        shard.result,
        keys=[key for batch in ordered for key in batch.keys],
        labels=np.array([label for batch in ordered for label in batch.labels], dtype=np.int64),
        views=np.array([view for batch in ordered for view in batch.views], dtype=np.int64),
        codes=np.concatenate([batch.values for batch in ordered]),
        meta=plan.metas[shard.split],
    )
    return shard.name


def tokenize_shard(plan: TokenizePlan, shard: TokenizeShard, tokenizer: Tokenizer) -> str:
    """All three stages for one shard unless it is finished; returns its name.

    Raises:
        DataError: see `decode_shard`.
    """
    if finished(shard):
        return shard.name
    return write_batches(plan, {batch.index: encode_batch(batch, tokenizer) for batch in decode_shard(plan, shard)})


def finished(shard: TokenizeShard) -> bool:
    """True if an earlier attempt wrote this shard: its file appears under its name only when it is complete."""
    return io.exists(shard.result)


class EncodeActor:
    """A Ray actor, for hosts that Beam cannot reach: it holds the tokenizer and takes one shard at a time.

    One whose host is lost comes back on another and does its shard again; finished shards stay.
    """

    def __init__(self, plan: TokenizePlan) -> None:
        devices.set_threads(plan.threads)
        self.plan = plan
        device = devices.torch_device(plan.device, plan.threads)
        self.tokenizer: Tokenizer = devices.cached_tokenizer(plan.weights, plan.config, device)

    def tokenize(self, shard: TokenizeShard) -> str:
        """Tokenize one shard; returns its name."""
        devices.set_threads(self.plan.threads)
        return tokenize_shard(self.plan, shard, self.tokenizer)


def run_actors(plan: TokenizePlan, shards: Sequence[TokenizeShard], ctx: Context, before: int) -> None:
    """Tokenize all shards on `run.workers` Ray actors; `before` more were finished by an earlier attempt.

    Raises:
        VimError: an actor raised it, or actors were lost more than `run.restarts` times.
    """
    from components.engines.ray import pool
    from components.engines.ray.session import connect

    connect(ctx.run)
    resources = pool.actor_resources(plan.device, plan.threads)
    results = pool.map_actors(EncodeActor, plan, "tokenize", shards, ctx, resources)
    for done, _ in enumerate(results, before + 1):
        ctx.progress.advance(done)
