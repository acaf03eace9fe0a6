"""A small probe that tests run in one worker or in several."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.support.tiny import code_table, image_table, prior_network
from tests.support.workers import run, runtime_of
from vim_core.config import ProbeConfig
from vim_core.models.prior import model_config
from vim_core.tasks.probe import ProbeTask
from vim_core.tasks.probe_data import ProbeData
from vim_core.weights.saving import to_bytes

STEPS = 8


def tables(folder: Path) -> None:
    """Codes and images of both splits, and a prior."""
    prior = prior_network()
    (folder / "model.safetensors").write_bytes(to_bytes(prior))
    (folder / "config.json").write_bytes(model_config(prior.shape))
    for split, count, seed in (("train", 30, 0), ("test", 13, 1)):
        labels = np.arange(count) % 3
        codes = np.random.default_rng(seed).integers(0, 11, (count, 6))
        codes[:, :2] = labels[:, None]
        code_table(folder / f"{split}-codes.parquet", codes, labels, 11, split)
        image_table(folder / f"{split}.parquet", count, seed=seed)


def probe(folder: Path, rank: int = 0, world: int = 1) -> ProbeTask:
    """A probe with a global batch of eight, and pixels."""
    data = ProbeData(
        [str(folder / "train-codes.parquet")],
        [str(folder / "test-codes.parquet")],
        (str(folder / "model.safetensors"), str(folder / "config.json")),
        3,
        [str(folder / "train.parquet")],
        [str(folder / "test.parquet")],
        str(folder / "cache"),
    )
    config = ProbeConfig(
        steps=STEPS, batch=8, precision="fp32", validation_share=0.4, pixels=4, checkpoint_every=2, log_every=1
    )
    return ProbeTask(config, data, runtime_of(rank, world))


def train_worker(rank: int, world: int, folder: Path, run_name: str, stop: int | None) -> None:
    """Train as one of several workers, to the end or until killed before step `stop`."""
    run(probe(folder, rank, world), folder / run_name, stop)


def train_alone(folder: Path, run_name: str, stop: int | None = None) -> None:
    """Train as the only worker."""
    run(probe(folder), folder / run_name, stop)
