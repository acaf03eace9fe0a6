"""The work of `score` on one shard of images; results are kept as files, so that finished shards are not redone."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vim_core.errors import DataError
from vim_core.storage import io

if TYPE_CHECKING:
    from vim_core.features import FeatureSpec

ROUNDING_DB = 58.9
"""PSNR of an image that differs only by the rounding to 8 bits: what an equal image counts as, instead of infinity."""


@dataclass(frozen=True)
class Pair:
    """One shard of reconstructions and the shard of originals behind it.

    `whole` says that every original of the shard was reconstructed; without it, reconstructions may be fewer. With a
    `tap`, the features of both sides are summed (rFID) and with `keep` kept; `lpips` is the address of VGG16 and
    `lpips_sha256` its hash, for LPIPS on `lpips_device`.
    """

    result: str
    name: str
    originals: str
    reconstructions: str
    whole: bool
    batch: int
    max_pixels: int
    device: str
    threads: int
    tap: FeatureSpec | None = None
    keep: bool = False
    lpips: str = ""
    lpips_sha256: str = ""
    lpips_device: str = "cpu"


@dataclass(frozen=True)
class Judged:
    """One shard of generated images, the classifier that judges them (or none) and what is summed over them.

    `tap` is the network of the statistics that they are compared with; `splits`, `features` and `spatial` as in
    `statistics`. The shard's images are numbers `first` and following of `total`, which `protocol` may split the
    Inception Score by. With `keep` all features are kept, for intervals and neighbours.
    """

    result: str
    name: str
    samples: str
    weights: str
    config: str
    batch: int
    max_pixels: int
    device: str
    threads: int
    tap: FeatureSpec
    splits: int = 0
    features: int = 0
    spatial: bool = False
    protocol: str = ""
    first: int = 0
    total: int = 0
    keep: bool = False
    set: str = "samples"


@dataclass(frozen=True)
class RealPair:
    """One shard of real images of which some go into the one, some into the other of two sets that do not overlap.

    An image belongs to the first where a hash of its key is below `cuts[0]`, else to the second below `cuts[1]`.
    """

    result: str
    name: str
    images: str
    cuts: tuple[int, int]
    batch: int
    max_pixels: int
    device: str
    threads: int
    tap: FeatureSpec
    keep: bool = False


@dataclass(frozen=True)
class Search:
    """One shard of training images among which the nearest of the vectors in the file `queries` are sought."""

    result: str
    name: str
    images: str
    queries: str
    count: int
    size: int
    batch: int
    max_pixels: int
    device: str
    threads: int
    tap: FeatureSpec


Job = Pair | Judged | RealPair | Search


def finished(job: Job) -> bool:
    """Whether the shard's result was written by an earlier attempt."""
    return io.exists(f"{job.result}.json")


def load(result: str) -> dict[str, Any]:
    """The shard's result."""
    record: dict[str, Any] = json.loads(io.read_bytes(f"{result}.json"))
    return record


def measure(job: Job) -> str:
    """Score one shard, write `<result>.json` (the last act) and give its name."""
    from components.engines.devices import set_threads
    from components.score import shard_work

    set_threads(job.threads)
    works: dict[type, Callable[[Any], dict[str, Any]]] = {
        Pair: shard_work.reconstructions,
        Judged: shard_work.samples,
        RealPair: shard_work.real_pair,
        Search: shard_work.search,
    }
    record = works[type(job)](job)
    io.write_bytes(f"{job.result}.json", json.dumps(record, sort_keys=True).encode())
    return job.result


def paired_rows(name: str, originals: list[str], made: list[str], whole: bool) -> list[int]:
    """The originals' row of every reconstruction, by key. Raises `DataError` where keys do not match."""
    row_of = {key: row for row, key in enumerate(originals)}
    strange = [key for key in made if key not in row_of]
    if strange:
        raise DataError(
            f"{name}: reconstruction of {strange[0]!r}, which is not in the originals: run reconstruct again"
        )
    missing = set(originals) - set(made)
    if whole and missing:
        first = min(missing)
        raise DataError(f"{name}: {len(missing)} images have no reconstruction, first {first!r}: run reconstruct again")
    if len(set(made)) != len(made):
        raise DataError(f"{name}: the same key was reconstructed twice: run reconstruct again")
    return [row_of[key] for key in made]


PARTS = ("moments", "inception_score", "features", "spatial")
"""What may be summed over images, each in a file of its own beside the shard's result."""


def part_file(result: str, kind: str) -> str:
    """Where a shard's sums of one kind lie."""
    return f"{result}.npz" if kind == "moments" else f"{result}-{kind}.npz"
