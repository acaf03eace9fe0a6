"""The probe in two worker processes is the probe in one, also where they take over from each other."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.support.tiny import code_table, image_table, prior_network
from tests.support.workers import curve, run, runtime_of, spawn
from vim_core.config import ProbeConfig
from vim_core.models.prior import model_config
from vim_core.tasks.probe import ProbeTask
from vim_core.tasks.probe_data import ProbeData
from vim_core.weights.saving import to_bytes

pytestmark = pytest.mark.slow

STEPS = 8


def write_tables(folder: Path) -> None:
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


def train(rank: int, world: int, folder: Path, run_name: str, stop: int | None = None) -> None:
    """Train a probe with a global batch of eight, and pixels, to the end or until killed before step `stop`."""
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
    run(ProbeTask(config, data, runtime_of(rank, world)), folder / run_name, stop)


def files(folder: Path, place: str) -> tuple[dict[str, float], dict[str, list[float]]]:
    figures = json.loads((folder / place / "figures.json").read_text())
    curves = curve(folder / place)
    return figures, {name: curves[name] for name in ("loss", "pixel_loss", "skipped")}


def test_two_workers_do_what_one_does(tmp_path: Path) -> None:
    write_tables(tmp_path)
    train(0, 1, tmp_path, "one")
    spawn(train, 2, tmp_path, "two")
    # Killed in two processes before step 5, continued from step 4 in one.
    spawn(train, 2, tmp_path, "moved", 5)
    train(0, 1, tmp_path, "moved")
    expected = files(tmp_path, "one")
    assert set(expected[0]) == {"block_00", "block_01", "pixels"}
    assert len(expected[1]["loss"]) == STEPS
    for place in ("two", "moved"):
        figures, curves = files(tmp_path, place)
        assert figures == pytest.approx(expected[0])
        for name, values in curves.items():
            assert values == pytest.approx(expected[1][name], rel=1e-4, abs=1e-6), (place, name)
