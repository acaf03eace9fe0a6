"""Statistics given the features, beside torch-fidelity: time, and peak memory of processes of their own.

`python -m tests.benchmarks.statistics SIDE IMAGES DIM` is such a process; it prints its peak in MiB.
"""

from __future__ import annotations

import dataclasses
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from tests.benchmarks.harness import Bench, Row, installed, rounded
from vim_core.features import Features
from vim_core.metrics.feature_statistics import FeatureStatistics
from vim_core.metrics.frechet import Moments, frechet_distance

PEER = "torch-fidelity: mean, covariance, distance"
BATCH = 64
OURS, THEIRS = "vim", "torch_fidelity"


@dataclasses.dataclass(frozen=True)
class Size:
    """Images and dimensions of the features."""

    few: int
    many: int
    dim: int

    def words(self, images: int) -> str:
        """In words."""
        return f"{images:,} x {self.dim:,} float32 features, batches of {BATCH}"


def batches(images: int, dim: int, seed: int) -> Iterator[NDArray[np.float32]]:
    """Features as a network would hand them over, never all at once."""
    rng = np.random.default_rng(seed)
    for start in range(0, images, BATCH):
        yield rng.standard_normal((min(BATCH, images - start), dim), dtype=np.float32) * 0.5 + 0.4


def ours(given: Iterator[NDArray[np.float32]], dim: int) -> Moments:
    """Moments by way of what `statistics` sums."""
    sums = FeatureStatistics(dim)
    for features in given:
        batch = torch.from_numpy(features)
        keys = [f"{sums.count + row:08d}" for row in range(len(batch))]
        sums.add(keys, Features(batch, torch.empty(len(batch), 0)))
    moments: Moments = sums.parts()[0]
    return moments


def theirs(images: int, dim: int, seed: int) -> torch.Tensor:
    """The same features as torch-fidelity wants them: all at once."""
    features = torch.empty(images, dim)
    start = 0
    for batch in batches(images, dim, seed):
        features[start : start + len(batch)] = torch.from_numpy(batch)
        start += len(batch)
    return features


def fidelity(a: torch.Tensor, b: torch.Tensor) -> float:
    """torch-fidelity's distance of two sets of features."""
    from torch_fidelity import metric_fid

    stats = [metric_fid.fid_features_to_statistics(features) for features in (a, b)]
    return float(metric_fid.fid_statistics_to_metric(*stats, False)["frechet_inception_distance"])


def statistics_features(bench: Bench) -> list[Row]:
    """Images a second from features to distance, both sides of it; flatness of memory; images by peak memory."""
    size = Size(40, 160, 8) if bench.toy else Size(10_000, 100_000, 2048)
    bench = dataclasses.replace(bench, repeats=min(bench.repeats, 3))
    if bench.gpu:  # both sides are numpy's
        return [bench.absent("statistics from features", "images/s", PEER, size.words(size.few), "runs on the CPU")]
    return [_speed(bench, size), *_memory(bench, size)]


def _speed(bench: Bench, size: Size) -> Row:
    a, b = (theirs(size.few, size.dim, seed) for seed in (0, 1))

    def run() -> float:
        sides = (ours((part.numpy() for part in each.split(BATCH)), size.dim) for each in (a, b))
        return frechet_distance(*sides)

    theirs_too = partial(fidelity, a, b) if installed("torch_fidelity") else None
    if theirs_too:
        np.testing.assert_allclose(run(), theirs_too(), rtol=1e-6)
    name, words = "statistics from features", size.words(size.few)
    return bench.compare(name, "images/s", 2 * size.few, run, theirs_too, PEER, words, warmup=0)


def _memory(bench: Bench, size: Size) -> list[Row]:
    few, many = (peak(bench, OURS, images, size.dim) for images in (size.few, size.many))
    flat = rounded(few / many)
    name = f"peak memory for {size.few:,} images over that for {size.many:,} ({few:.0f} and {many:.0f} MiB)"
    rows = [bench.row(name, flat, "of 1", "flat", 1.0, flat, size.words(size.many))]
    name, unit = f"statistics of {size.many:,} images", "images per MiB of peak memory"
    if not installed("torch_fidelity"):
        value = rounded(size.many / many)
        return [*rows, bench.absent(name, unit, PEER, size.words(size.many), "not installed", value)]
    rates = (size.many / many, size.many / peak(bench, THEIRS, size.many, size.dim))
    return [*rows, bench.faster(name, unit, rates, PEER, size.words(size.many))]


def peak(bench: Bench, side: str, images: int, dim: int) -> float:
    """Peak resident memory in MiB of a process that does one side's work from features to distance.

    At toy size the work is done here, where the peak says nothing of it.
    """
    if bench.toy:
        return work(side, images, dim)
    root = str(Path(__file__).resolve().parents[2])
    command = [sys.executable, "-m", "tests.benchmarks.statistics", side, str(images), str(dim)]
    environment = os.environ | {"PYTHONPATH": root}
    done = subprocess.run(command, cwd=root, env=environment, check=True, capture_output=True, text=True)
    return float(done.stdout.split()[-1])


def work(side: str, images: int, dim: int) -> float:
    """One side's work, against statistics of few more images than dimensions; this process's peak so far in MiB."""
    if side == OURS:
        frechet_distance(ours(batches(images, dim, 0), dim), ours(batches(dim + 64, dim, 1), dim))
    else:
        fidelity(theirs(images, dim, 0), theirs(dim + 64, dim, 1))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    sys.stdout.write(f"{work(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])):.1f}\n")
