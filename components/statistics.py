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

VERSION = 2
INPUTS = {"images": "ingest", "classifier": "classify"}

DEVICE = "cpu"
"""Where `score` takes the features of samples, too: both sides of a distance come from the same arithmetic."""


HALVES = ("moments/half-0.npz", "moments/half-1.npz")


@dataclass(frozen=True)
class Job:
    """One shard: its images, what is merged from it, and the network.

    `targets` are the merged sets that the shard enters, its split first; `names` its own moments for each of them.
    """

    index: int
    images: str
    folder: str
    targets: tuple[str, ...]
    names: tuple[str, ...]
    batch: int
    weights: str
    config: str
    threads: int
    max_pixels: int

    @property
    def files(self) -> list[str]:
        """Moments of the whole shard, then of its halves, in the work folder; the first is written last."""
        return [io.join(self.folder, name) for name in self.names]


def run(config: StatisticsConfig, inputs: Inputs, ctx: Context) -> Outcome:
    """Files `moments/<split>-NNNNN.npz` per shard, `moments/<split>.npz`, `moments/half-0.npz` and `half-1.npz`.

    Both the reference split and the splits of the halves are measured. Halves are chosen by a hash of the key.
    Finished shards of an earlier attempt are kept.

    Raises:
        DataError: a split or a half has fewer than two images, or an image cannot be decoded.
    """
    from components.beam_jobs import publish

    jobs = make_jobs(config, inputs, ctx)
    merged = sorted({name for job in jobs for name in job.targets} | {whole(config.split), *HALVES})
    _measure(jobs, merged, ctx)
    for job in jobs:
        publish(ctx, job.files[0], job.names[0])
    sets = {name: read(ctx.path(name)) for name in merged}
    for name, moments in sets.items():
        if moments.count < 2:
            splits = " and ".join(config.halves) if name in HALVES else config.split
            raise DataError(f"statistics: {name} has {moments.count} images, needs 2: too few in split {splits}")
    total = sets[whole(config.split)]
    classifier = inputs["classifier"]
    return Outcome(
        metrics={"count": float(total.count)},
        properties={
            "network": {"kind": config.network, "digest": classifier.digest},
            "images": inputs["images"].digest,
            "split": config.split,
            "halves": sorted(set(config.halves)),
            "count": total.count,
            "dim": total.dim,
            "half_rule": "sha256('half', key) mod 2",
        },
        numeric={"device": DEVICE, "dtype": "fp32", "threads": jobs[0].threads},
    )


def whole(split: str) -> str:
    """Logical name of the moments of all images of a split."""
    return f"moments/{split}.npz"


def make_jobs(config: StatisticsConfig, inputs: Inputs, ctx: Context) -> list[Job]:
    """One job per shard of every split that is asked for."""
    splits = sorted({config.split, *config.halves})
    shards = [(split, uri) for split in splits for uri in inputs["images"].uris(f"images/{split}-")]
    places: dict[str, int] = {}
    jobs = []
    for index, (split, uri) in enumerate(shards):
        place = places[split] = places.get(split, -1) + 1
        halves = split in config.halves
        names = (f"moments/{split}-{place:05d}.npz", *(f"{split}-half-{i}-{place:05d}.npz" for i in range(2) if halves))
        targets = (whole(split), *(HALVES if halves else ()))
        jobs.append(_job(config, inputs, ctx, index=index, images=uri, targets=targets, names=names))
    return jobs


def _job(config: StatisticsConfig, inputs: Inputs, ctx: Context, **own: Any) -> Job:
    from components.beam_jobs import numeric_name, threads_of

    threads = threads_of(ctx.run)
    return Job(
        folder=io.join(ctx.work, numeric_name(DEVICE, threads, config.batch)),
        batch=config.batch,
        weights=inputs["classifier"].uri("model.safetensors"),
        config=inputs["classifier"].uri("config.json"),
        threads=threads,
        max_pixels=int(inputs["images"].manifest.config["max_pixels"]),
        **own,
    )


def read(uri: str) -> Moments:
    """Moments as a file of this component holds them."""
    from vim_core.metrics.moments import Moments

    return Moments.from_bytes(io.read_bytes(uri))


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
    parts = [[moments] for moments in _moments(job, table, [], half)]
    for start in range(0, len(table), job.batch):
        rows = list(range(start, min(start + job.batch, len(table))))
        for part, moments in zip(parts, _moments(job, table, rows, half), strict=True):
            part.append(moments)
    for uri, part in reversed(list(zip(job.files, parts, strict=True))):
        io.write_bytes(uri, merge_all(part).to_bytes())
    return job


def _moments(job: Job, table: Any, rows: list[int], half: list[int]) -> list[Moments]:
    """Moments of these rows: all, and if the shard enters the halves those of the first and of the second."""
    import numpy as np
    import torch

    from components import beam_jobs
    from vim_core.data.images import decode, square, to_tensor
    from vim_core.metrics.moments import Moments

    network = beam_jobs.classifier(job.weights, job.config, DEVICE)
    if not rows:
        return [Moments.empty(network.shape.features)] * len(job.targets)
    pixels = [square(decode(table.image(row), job.max_pixels), network.image_size) for row in rows]
    with torch.inference_mode():
        features = network.features(to_tensor(np.stack(pixels))).double().numpy()
    side = np.array([half[row] for row in rows])
    chosen = (features, features[side == 0], features[side == 1])
    return [Moments.from_batch(values) for values in chosen[: len(job.targets)]]


def _measure(jobs: list[Job], merged: list[str], ctx: Context) -> None:
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
            >> beam.FlatMap(
                lambda job: [(name, (job.index, uri)) for name, uri in zip(job.targets, job.files, strict=True)]
            )
        )
        sets = files | "merge" >> beam.CombinePerKey(merge_in_order())
        _ = sets | "write" >> beam.MapTuple(lambda name, moments: io.write_bytes(targets[name], moments.to_bytes()))

    run_pipeline(ctx.run, build, ctx.progress, counter(jobs, finished))
