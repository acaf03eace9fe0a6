"""One shard of images to files of statistics; and how a run is cut into such shards."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from components.contract.api import Artifact, Context, Inputs
from vim_core.config import StatisticsConfig
from vim_core.storage import io

if TYPE_CHECKING:
    from vim_core.features import FeatureExtractor, FeatureSpec

DEVICE = "cpu"
"""Where the classifier runs, also in `score`: both sides of a distance come from the same arithmetic."""

MOMENTS, SCORES, FEATURES, SPATIAL = "moments", "inception_score", "features", "spatial"
HALVES = (f"{MOMENTS}/half-0.npz", f"{MOMENTS}/half-1.npz")
BATCH = "reference-images"
"""Stands for a split: the images of a reference file."""


@dataclass(frozen=True)
class Job:
    """One shard: its images, what is merged from it, and the network.

    `targets` are the merged sets that the shard enters, its split first; `names` its own statistics for each of them,
    first of all images, then of the halves, then the sums of the Inception Score, features, spatial moments.
    """

    index: int
    split: str
    images: str
    folder: str
    targets: tuple[str, ...]
    names: tuple[str, ...]
    batch: int
    tap: FeatureSpec
    threads: int
    max_pixels: int
    halves: bool
    splits: int
    features: int
    spatial: bool = False

    @property
    def files(self) -> list[str]:
        """Statistics of the shard in the work folder, as `names`; the first is written last."""
        return [io.join(self.folder, name) for name in self.names]

    @property
    def published(self) -> list[tuple[str, str]]:
        """File and logical name of what is kept of the shard beyond this run: all but the halves."""
        pairs = list(zip(self.files, self.names, strict=True))
        return [pairs[0], *pairs[3 if self.halves else 1 :]]


def whole(split: str, kind: str = MOMENTS) -> str:
    """Logical name of the statistics of all images of a split."""
    return f"{kind}/{split}.npz"


def tap_of(config: StatisticsConfig, inputs: Inputs, ctx: Context) -> FeatureSpec:
    """The feature network that the settings ask for."""
    from components.engines.devices import beam_device
    from vim_core.features import CLASSIFIER, FeatureSpec

    if config.network == CLASSIFIER:
        return classifier_spec(inputs["classifier"])
    return FeatureSpec(
        config.network,
        config.weights,
        sha256=config.weights_sha256,
        image_size=config.image_size,
        device=beam_device(ctx.run),
    )


def classifier_spec(classifier: Artifact) -> FeatureSpec:
    """The classifier of the pipeline as a feature network."""
    from vim_core.features import CLASSIFIER, FeatureSpec

    weights, config = classifier.uri("model.safetensors"), classifier.uri("config.json")
    return FeatureSpec(CLASSIFIER, weights, config, classifier.digest, device=DEVICE)


def reference_spec(inputs: Inputs, ctx: Context) -> FeatureSpec:
    """The feature network that the input `statistics` was made with."""
    from components.engines.devices import beam_device
    from vim_core.features import CLASSIFIER, FeatureSpec

    network = inputs["statistics"].properties["network"]
    if network["kind"] == CLASSIFIER:
        return classifier_spec(inputs["classifier"])
    size = int(inputs["statistics"].manifest.config["image_size"])
    weights, device = ctx.pipeline.statistics.weights, beam_device(ctx.run)
    return FeatureSpec(network["kind"], weights, sha256=network["digest"], image_size=size, device=device)


@functools.lru_cache(maxsize=1)
def loaded(spec: FeatureSpec) -> FeatureExtractor:
    """One feature network per process, whatever the number of shards."""
    from vim_core.features import load_extractor

    return load_extractor(spec)


def make_jobs(config: StatisticsConfig, inputs: Inputs, ctx: Context, batch_file: bool = False) -> list[Job]:
    """One job per shard of every split that is asked for, and one for the images of a reference file."""
    splits = sorted({config.split, *config.halves})
    shards = [(split, uri) for split in splits for uri in inputs["images"].uris(f"images/{split}-")]
    if batch_file:
        shards.append((BATCH, config.reference))
    places: dict[str, int] = {}
    jobs = []
    for index, (split, uri) in enumerate(shards):
        place = places[split] = places.get(split, -1) + 1
        jobs.append(_job(config, inputs, ctx, index=index, split=split, place=place, images=uri))
    return jobs


def _job(config: StatisticsConfig, inputs: Inputs, ctx: Context, split: str, place: int, **own: Any) -> Job:
    from components.engines.devices import beam_threads, numeric_folder

    threads, tap = beam_threads(ctx.run), tap_of(config, inputs, ctx)
    halves, judged = split in config.halves, split in (config.split, BATCH)
    names = [f"{MOMENTS}/{split}-{place:05d}.npz", *(f"{split}-half-{i}-{place:05d}.npz" for i in range(2) if halves)]
    wanted = ((SCORES, config.score_splits), (FEATURES, config.features), (SPATIAL, config.spatial))
    kinds = [kind for kind, asked in wanted if asked and judged]
    return Job(
        split=split,
        folder=io.join(ctx.work, numeric_folder(tap.device, threads, config.batch)),
        targets=(whole(split), *(HALVES if halves else ()), *(whole(split, kind) for kind in kinds)),
        names=(*names, *(f"{kind}/{split}-{place:05d}.npz" for kind in kinds)),
        batch=config.batch,
        tap=tap,
        threads=threads,
        max_pixels=int(inputs["images"].manifest.config["max_pixels"]),
        halves=halves,
        splits=config.score_splits if judged else 0,
        features=config.features if judged else 0,
        spatial=config.spatial and judged,
        **own,
    )


def finished(job: Job) -> bool:
    """Whether an earlier attempt measured this shard."""
    return io.exists(job.files[0])


def measure(job: Job) -> Job:
    """Write the statistics of one shard, unless they are there, and pass the job on."""
    from components.engines.devices import set_threads
    from vim_core.features import extract_images
    from vim_core.metrics.feature_statistics import FeatureStatistics

    if finished(job):
        return job
    set_threads(job.threads)
    tap = loaded(job.tap)
    spatial = tap.spatial if job.spatial else 0
    sums = FeatureStatistics(tap.dim, tap.classes, job.halves, job.splits, job.features, padded=True, spatial=spatial)
    for keys, images in _pictures(job):
        sums.add(keys, extract_images(tap, images))
    for uri, part in reversed(list(zip(job.files, sums.parts(), strict=True))):
        io.write_bytes(uri, part.to_bytes())
    return job


def _pictures(job: Job) -> Iterator[tuple[list[str], Any]]:
    """Keys and decoded images uint8 [H, W, 3] in batches."""
    from vim_core.data.image_tables import ImageTable
    from vim_core.data.images import decode
    from vim_core.metrics.reference import read_images

    if job.split == BATCH:
        with io.local_copy(job.images) as path:
            for place, block in enumerate(read_images(path, job.batch)):
                yield [f"{BATCH}-{place * job.batch + row:08d}" for row in range(len(block))], block
        return
    table = ImageTable([job.images])
    for start in range(0, len(table), job.batch):
        rows = range(start, min(start + job.batch, len(table)))
        yield table.keys[rows.start : rows.stop], [decode(table.image(row), job.max_pixels) for row in rows]
