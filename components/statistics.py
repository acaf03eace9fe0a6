"""Reference statistics of real images (Beam): moments of a network's features, per shard, per half and in all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from components.api import Context, Inputs, Outcome
from vim_core import io
from vim_core.config import StatisticsConfig
from vim_core.errors import DataError

if TYPE_CHECKING:
    from vim_core.metrics.moments import Moments

VERSION = 1
INPUTS = {"images": "ingest", "classifier": "classify"}

DEVICE = "cpu"
"""Where `score` takes the features of samples, too: both sides of a distance come from the same arithmetic."""


@dataclass(frozen=True)
class Job:
    """One shard: its images, the names of its moments, and the network."""

    index: int
    images: str
    folder: str
    names: tuple[str, str, str]
    batch: int
    weights: str
    config: str
    threads: int
    max_pixels: int

    @property
    def files(self) -> list[str]:
        """Moments of all images and of the two halves in the work folder; the first is written last."""
        return [io.join(self.folder, name) for name in self.names]


def run(config: StatisticsConfig, inputs: Inputs, ctx: Context) -> Outcome:
    """Files `moments/<split>-NNNNN.npz` per shard, `moments/<split>.npz`, `moments/half-0.npz` and `half-1.npz`.

    Halves are chosen by a hash of the key. Finished shards of an earlier attempt are kept.

    Raises:
        DataError: a half of the split has fewer than two images, or an image cannot be decoded.
    """
    from components.beam_jobs import publish
    from vim_core.metrics.moments import Moments

    jobs = make_jobs(config, inputs, ctx)
    merged = merged_names(config.split)
    _measure(jobs, merged, ctx)
    for job in jobs:
        publish(ctx, job.files[0], job.names[0])
    sets = {name: Moments.from_bytes(io.read_bytes(ctx.path(name))) for name in merged}
    for name, moments in sets.items():
        if moments.count < 2:
            raise DataError(f"statistics: {name} has {moments.count} images, needs 2: too few in split {config.split}")
    total = sets[merged[0]]
    classifier = inputs["classifier"]
    return Outcome(
        metrics={"count": float(total.count)},
        properties={
            "network": {"kind": config.network, "digest": classifier.digest},
            "images": inputs["images"].digest,
            "split": config.split,
            "count": total.count,
            "dim": total.dim,
            "half_rule": "sha256('half', key) mod 2",
        },
        numeric={"device": DEVICE, "dtype": "fp32", "threads": jobs[0].threads},
    )


def merged_names(split: str) -> tuple[str, str, str]:
    """Logical names of the moments of all images, of the first and of the second half."""
    return f"moments/{split}.npz", "moments/half-0.npz", "moments/half-1.npz"


def make_jobs(config: StatisticsConfig, inputs: Inputs, ctx: Context) -> list[Job]:
    """One job per shard of the split."""
    from components.beam_jobs import numeric_name, threads_of

    images, classifier = inputs["images"], inputs["classifier"]
    threads = threads_of(ctx.run)
    return [
        Job(
            index=index,
            images=uri,
            folder=io.join(ctx.work, numeric_name(DEVICE, threads, config.batch)),
            names=(f"moments/{config.split}-{index:05d}.npz", f"half-0-{index:05d}.npz", f"half-1-{index:05d}.npz"),
            batch=config.batch,
            weights=classifier.uri("model.safetensors"),
            config=classifier.uri("config.json"),
            threads=threads,
            max_pixels=int(images.manifest.config["max_pixels"]),
        )
        for index, uri in enumerate(images.uris(f"images/{config.split}-"))
    ]


def finished(job: Job) -> bool:
    """Whether an earlier attempt measured this shard."""
    return io.exists(job.files[0])


def measure(job: Job) -> Job:
    """Write the moments of one shard, unless they are there, and pass the job on."""
    from components.beam_jobs import set_threads
    from vim_core.data.tables import ImageTable, hashed
    from vim_core.metrics.moments import merge_all

    if finished(job):
        return job
    set_threads(job.threads)
    table = ImageTable([job.images])
    half = [hashed("half", key) % 2 for key in table.keys]
    parts = [[moments] for moments in _moments(job, table, [])]
    for start in range(0, len(table), job.batch):
        rows = list(range(start, min(start + job.batch, len(table))))
        for part, moments in zip(parts, _moments(job, table, rows, half), strict=True):
            part.append(moments)
    for uri, part in reversed(list(zip(job.files, parts, strict=True))):
        io.write_bytes(uri, merge_all(part).to_bytes())
    return job


def _moments(job: Job, table: Any, rows: list[int], half: list[int] | None = None) -> list[Moments]:
    """Moments of these rows: all, those of the first half, those of the second."""
    import numpy as np
    import torch

    from components import beam_jobs
    from vim_core.data.images import decode, square, to_tensor
    from vim_core.metrics.moments import Moments

    network = beam_jobs.classifier(job.weights, job.config, DEVICE)
    if not rows:
        return [Moments.empty(network.shape.features)] * 3
    pixels = [square(decode(table.image(row), job.max_pixels), network.image_size) for row in rows]
    with torch.inference_mode():
        features = network.features(to_tensor(np.stack(pixels))).double().numpy()
    side = np.array([half[row] for row in rows]) if half else np.zeros(len(rows))
    return [Moments.from_batch(chosen) for chosen in (features, features[side == 0], features[side == 1])]


def _measure(jobs: list[Job], merged: tuple[str, str, str], ctx: Context) -> None:
    import apache_beam as beam

    from components.beam_jobs import announce, counter, run_pipeline
    from components.merging import merge_in_order

    announce(jobs, finished, ctx.progress)
    targets = {name: ctx.path(name) for name in merged}

    def build(pipeline: Any) -> None:
        spread = pipeline | "shards" >> beam.Create(jobs) | "spread" >> beam.Reshuffle()
        files = (
            spread
            | "measure" >> beam.Map(measure)
            | "files"
            >> beam.FlatMap(lambda job: [(name, (job.index, uri)) for name, uri in zip(merged, job.files, strict=True)])
        )
        sets = files | "merge" >> beam.CombinePerKey(merge_in_order())
        _ = sets | "write" >> beam.MapTuple(lambda name, moments: io.write_bytes(targets[name], moments.to_bytes()))

    run_pipeline(ctx.run, build, ctx.progress, counter(jobs, finished))
