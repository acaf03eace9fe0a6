"""Shards of `score`: what each computes, and where its results are kept so that finished shards are not repeated."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vim_core.storage import io

if TYPE_CHECKING:
    from vim_core.features import FeatureSpec

ROUNDING_DB = 58.9
"""PSNR of an image that differs only by the rounding to 8 bits; equal images count as this instead of infinity."""

SIDES = ("made", "real")
"""The two sides of a comparison, as their files are named."""


@dataclass(frozen=True, kw_only=True)
class Shard:
    """Common to all shards: `result` is the address of the results, without the suffixes of their files."""

    result: str
    batch: int
    max_pixels: int
    device: str
    threads: int


@dataclass(frozen=True, kw_only=True)
class ReconstructionShard(Shard):
    """Reconstructions and their originals.

    Attributes:
        name: logical name of both image tables.
        originals, reconstructions: their addresses.
        complete: every original of the table was reconstructed; otherwise reconstructions may be fewer.
        spec: network whose features of both sides are summed (rFID); None for none.
        cache_features: keep the features for intervals and the neighbour search.
        lpips, lpips_sha256, lpips_device: address and hash of VGG16's weights, and its device; empty for no LPIPS.
    """

    name: str
    originals: str
    reconstructions: str
    complete: bool
    spec: FeatureSpec | None = None
    cache_features: bool = False
    lpips: str = ""
    lpips_sha256: str = ""
    lpips_device: str = "cpu"


@dataclass(frozen=True, kw_only=True)
class SampleShard(Shard):
    """Generated images.

    Attributes:
        set_name: the image set that they belong to.
        samples: address of their image table.
        weights, config: files of the classifier that measures conditional accuracy; empty for none.
        spec: network of the statistics that they are compared with.
        splits, features, spatial: as in `statistics`.
        protocol: name of the convention, see `vim_core.metrics.conventions`.
        first, total: the images are numbers `first` and following of `total` in their set.
        cache_features: keep the features for intervals and the neighbour search.
    """

    set_name: str
    samples: str
    weights: str
    config: str
    spec: FeatureSpec
    splits: int = 0
    features: int = 0
    spatial: bool = False
    protocol: str = ""
    first: int = 0
    total: int = 0
    cache_features: bool = False


@dataclass(frozen=True, kw_only=True)
class RealShard(Shard):
    """Real images that are divided into two disjoint sets by the hash `partition.pair_rank` of their keys.

    The first set is below `thresholds[0]`, the second from there to below `thresholds[1]`.
    """

    images: str
    thresholds: tuple[int, int]
    spec: FeatureSpec
    cache_features: bool = False


@dataclass(frozen=True, kw_only=True)
class NeighbourShard(Shard):
    """Training images among which the `count` nearest to each vector in the file `queries` are found.

    Their features are computed at `size` pixels a side.
    """

    images: str
    queries: str
    count: int
    size: int
    spec: FeatureSpec


def finished(shard: Shard) -> bool:
    """True if the shard's record was written, now or by an earlier attempt."""
    return io.exists(f"{shard.result}.json")


def read_record(result: str) -> dict[str, Any]:
    """The record that `measure` wrote for a shard."""
    record: dict[str, Any] = json.loads(io.read_bytes(f"{result}.json"))
    return record


def statistics_file(result: str, kind: str) -> str:
    """Address of a shard's statistics of one kind."""
    return f"{result}.npz" if kind == "moments" else f"{result}-{kind}.npz"
