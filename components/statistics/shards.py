"""Shards of images: how a run of `statistics` is divided into them, and the statistics files of one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from components.contract.api import Context, Inputs
from components.statistics.networks import cached_extractor, configured_spec
from vim_core.config import StatisticsConfig
from vim_core.storage import io

if TYPE_CHECKING:
    from vim_core.features import FeatureSpec
    from vim_core.metrics.frechet import Moments

MOMENTS, SCORES, FEATURES, SPATIAL = "moments", "inception_score", "features", "spatial"
HALVES = (f"{MOMENTS}/half-0.npz", f"{MOMENTS}/half-1.npz")
REFERENCE = "reference.npz"
"""Logical name of the reference file's statistics, as mu and sigma."""
REFERENCE_IMAGES = "reference-images"
"""In place of a split: the images of a reference file."""


@dataclass(frozen=True)
class StatisticsShard:
    """One shard of images and the statistics to compute from it.

    Attributes:
        index: number of the shard in the run, which fixes the order of merging.
        split: split of its images, or `REFERENCE_IMAGES`.
        images: address of its image table or reference file.
        folder: where its statistics are written.
        targets: logical names of the merged statistics that it contributes to.
        names: names of its own statistics for each of them: of all images, of both halves, then Inception
            Score sums, feature sample and spatial moments.
        batch, threads, max_pixels: of the run.
        spec: the feature network.
        halves: compute moments of both halves.
        splits, features, spatial: as in the settings; 0 or False for splits of images that only enter the halves.
    """

    index: int
    split: str
    images: str
    folder: str
    targets: tuple[str, ...]
    names: tuple[str, ...]
    batch: int
    spec: FeatureSpec
    threads: int
    max_pixels: int
    halves: bool
    splits: int
    features: int
    spatial: bool = False

    @property
    def files(self) -> list[str]:
        """Statistics of the shard in the work folder, in the order of `names`; the first is written last."""
        return [io.join(self.folder, name) for name in self.names]

    @property
    def published(self) -> list[tuple[str, str]]:
        """File and logical name of the statistics that become part of the artifact: all but those of the halves."""
        pairs = list(zip(self.files, self.names, strict=True))
        return [pairs[0], *pairs[3 if self.halves else 1 :]]


def merged_name(split: str, kind: str = MOMENTS) -> str:
    """Logical name of the statistics of all images of a split."""
    return f"{kind}/{split}.npz"


def read_moments(uri: str) -> Moments:
    """Moments as a file of this component holds them."""
    from vim_core.metrics.frechet import Moments

    return Moments.from_bytes(io.read_bytes(uri))


def make_shards(
    config: StatisticsConfig, inputs: Inputs, ctx: Context, reference_images: bool = False
) -> list[StatisticsShard]:
    """One shard per image table of every configured split, and one for the images of a reference file."""
    from components.engines.devices import beam_threads, numeric_folder

    tables = {split: inputs["images"].uris(f"images/{split}-") for split in sorted({config.split, *config.halves})}
    if reference_images:
        tables[REFERENCE_IMAGES] = [config.reference]
    threads, spec = beam_threads(ctx.run), configured_spec(config, inputs, ctx)
    optional = ((SCORES, config.score_splits), (FEATURES, config.features), (SPATIAL, config.spatial))
    shards: list[StatisticsShard] = []
    for split, uris in tables.items():
        halves, evaluated = split in config.halves, split in (config.split, REFERENCE_IMAGES)
        kinds = [kind for kind, wanted in optional if wanted and evaluated]
        for number, uri in enumerate(uris):
            first, *rest = (f"{kind}/{split}-{number:05d}.npz" for kind in (MOMENTS, *kinds))
            half_names = [f"{split}-half-{half}-{number:05d}.npz" for half in range(2) if halves]
            shard = StatisticsShard(
                index=len(shards),
                split=split,
                images=uri,
                folder=io.join(ctx.work, numeric_folder(spec.device, threads, config.batch, on_host=True)),
                targets=(merged_name(split), *(HALVES if halves else ()), *(merged_name(split, k) for k in kinds)),
                names=(first, *half_names, *rest),
                batch=config.batch,
                spec=spec,
                threads=threads,
                max_pixels=int(inputs["images"].manifest.config["max_pixels"]),
                halves=halves,
                splits=config.score_splits if evaluated else 0,
                features=config.features if evaluated else 0,
                spatial=config.spatial and evaluated,
            )
            shards.append(shard)
    return shards


def finished(shard: StatisticsShard) -> bool:
    """True if an earlier attempt measured this shard."""
    return io.exists(shard.files[0])


def measure(shard: StatisticsShard) -> StatisticsShard:
    """Write the statistics of one shard, unless they are there, and return the shard."""
    from components.engines.devices import set_threads
    from vim_core.features import extract_images
    from vim_core.metrics.feature_statistics import FeatureStatistics

    if finished(shard):
        return shard
    set_threads(shard.threads)
    extractor = cached_extractor(shard.spec)
    statistics = FeatureStatistics(
        extractor.dim,
        extractor.classes,
        shard.halves,
        shard.splits,
        shard.features,
        padded=True,
        spatial=extractor.spatial if shard.spatial else 0,
    )
    for keys, images in image_batches(shard):
        statistics.add(keys, extract_images(extractor, images))
    for uri, part in reversed(list(zip(shard.files, statistics.parts(), strict=True))):
        io.write_bytes(uri, part.to_bytes())
    return shard


def image_batches(shard: StatisticsShard) -> Iterator[tuple[list[str], Any]]:
    """Keys and decoded images uint8 [H, W, 3] of a shard in batches."""
    from vim_core.data.image_tables import ImageTable
    from vim_core.data.images import decode
    from vim_core.metrics.reference import read_images

    if shard.split == REFERENCE_IMAGES:
        with io.local_copy(shard.images) as path:
            for number, block in enumerate(read_images(path, shard.batch)):
                yield [f"{REFERENCE_IMAGES}-{number * shard.batch + row:08d}" for row in range(len(block))], block
        return
    table = ImageTable([shard.images])
    for start in range(0, len(table), shard.batch):
        rows = range(start, min(start + shard.batch, len(table)))
        yield table.keys[rows.start : rows.stop], [decode(table.image(row), shard.max_pixels) for row in rows]
