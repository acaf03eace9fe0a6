"""Golden figures of a tiny fp32 run: when one moves, its component's VERSION must move too (contract 2).

After an intended change, raise VERSION in the component and run `python -m tests.unit.test_golden` to record anew.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from components.contract import registry
from components.score.feature_cache import distance_interval, distances_without_groups
from tests.support import tiny
from vim_core.config import AugmentConfig, ProbeConfig, TrainConfig
from vim_core.data import digits
from vim_core.data.image_loader import augment
from vim_core.data.images import decode, to_tensor
from vim_core.metrics.codebook import perplexity, usages
from vim_core.metrics.frechet import Moments, frechet_distance
from vim_core.metrics.intervals import wilson_interval
from vim_core.metrics.reconstruction import psnr, ssim
from vim_core.metrics.tradeoff import locate_minimum
from vim_core.models.prior import model_config
from vim_core.models.vit_vqgan import Tokenizer
from vim_core.sampling.logits import SamplingSettings
from vim_core.sampling.rejection import accept
from vim_core.sampling.sampler import Sampler
from vim_core.tasks.base import Task
from vim_core.tasks.classifier import ClassifierData, ClassifierTask
from vim_core.tasks.prior import PriorData, PriorTask
from vim_core.tasks.probe import ProbeTask
from vim_core.tasks.probe_data import ProbeData
from vim_core.tasks.quantizer import QuantizerData, QuantizerTask
from vim_core.weights.saving import to_bytes

GOLDEN = Path(__file__).with_name("golden.json")
Figures = list[float]


def checksum(data: bytes) -> float:
    """The first six bytes of a hash, as a number that JSON keeps exactly."""
    return float(int.from_bytes(hashlib.sha256(data).digest()[:6], "big"))


def trained(task: Task) -> Figures:
    """The loss of every step and the final figures."""
    config: TrainConfig = task.config
    losses = []
    for step in range(config.steps):
        task.runtime.seed_step(config.seed, step)
        losses.append(float(task.step(step, task.batch(step))["loss"]))
    return [*losses, *task.finish().values()]


def digit_images(count: int) -> np.ndarray:
    return np.stack([decode(digits.png(index)) for index in range(count)])


def ingest(folder: Path) -> Figures:
    return [checksum(decode(digits.png(index)).tobytes()) for index in range(3)]


def quantize(folder: Path) -> Figures:
    train, test = tiny.image_table(folder / "a", 12), tiny.image_table(folder / "b", 6, seed=1)
    return trained(QuantizerTask(tiny.quantize_config(), QuantizerData([train], [test]), tiny.runtime()))


def classify(folder: Path) -> Figures:
    train, test = tiny.image_table(folder / "a", 12), tiny.image_table(folder / "b", 6, seed=1)
    return trained(ClassifierTask(tiny.classify_config(), ClassifierData([train], [test], 3), tiny.runtime()))


def prior(folder: Path) -> Figures:
    rng = np.random.default_rng(0)
    tables = [
        tiny.code_table(folder / split, rng.integers(0, 11, (count, 6)), rng.integers(0, 3, count), 11, split)
        for split, count in (("train", 12), ("test", 6))
    ]
    return trained(PriorTask(tiny.prior_config(), PriorData(tables[:1], tables[1:], 3, "t"), tiny.runtime()))


def tokenize(folder: Path) -> Figures:
    view = AugmentConfig(rotate_degrees=10.0, zoom=0.1, shift=0.1)
    views = np.stack([augment(image, 8, view, (0, "key", n)) for n, image in enumerate(digit_images(4))])
    codes = Tokenizer(tiny.tokenizer_network()).encode(to_tensor(views))
    return [float(code) for code in codes.flatten()]


def reconstruct(folder: Path) -> Figures:
    images = Tokenizer(tiny.tokenizer_network()).decode(torch.arange(8).view(2, 4))
    return [float(value) for value in images.mean(dim=(2, 3)).flatten()]


def sample(folder: Path) -> Figures:
    settings = SamplingSettings(seed=3, temperature=0.9, top_k=7, top_p=0.95, guidance=1.5)
    sampler = Sampler(tiny.prior_network(null_trained=True), settings, 4)
    return [float(code) for code in sampler.group(1, torch.tensor([0, 1, 2, 0])).flatten()]


def statistics(folder: Path) -> Figures:
    rng = np.random.default_rng(0)
    parts = [Moments.from_batch(rng.normal(size=(5, 3))) for _ in range(2)]
    return [float(value) for value in parts[0].merge(parts[1]).covariance.flatten()]


def score(folder: Path) -> Figures:
    rng = np.random.default_rng(0)
    a, b = (to_tensor(rng.integers(0, 256, (2, 16, 16, 3)).astype(np.uint8)) for _ in range(2))
    codes = rng.integers(0, 8, (8, 4))
    moments = [Moments.from_batch(rng.normal(size=(20, 3)) * scale) for scale in (1, 2)]
    pictures = [*psnr(a, b).tolist(), *ssim(a, b).tolist()]
    distance = frechet_distance(*moments)
    return [*pictures, float(np.mean(usages(codes, 8, 4))), perplexity(np.bincount(codes.ravel())), distance]


def select(folder: Path) -> Figures:
    rng = np.random.default_rng(0)
    keys, scores = [f"{i:03d}" for i in range(40)], rng.integers(0, 8, 40) / 8
    kept = accept(keys, np.arange(40) % 2, scores, 2, 3, [1.0, 0.5, 0.15])
    return [float(row) for rows in kept.values() for row in rows]


def tradeoff(folder: Path) -> Figures:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(24, 3)).astype(np.float32)
    reference = Moments.from_batch(rng.normal(size=(30, 3)))
    without = [
        distances_without_groups([(Moments.from_batch(features * scale), features * scale)], 8, reference)
        for scale in (0.7, 1.0, 1.4)
    ]
    best = locate_minimum([1.0, 2.0, 3.0], [0.5, 0.3, 0.4], np.array(without), 200, 0.9)
    return [
        *wilson_interval(19, 24, 0.9),
        *(distance_interval(0.3, without[1], 0.9) or ()),
        *without[0],
        best.low,
        best.high,
        *best.shares.values(),
    ]


def probe(folder: Path) -> Figures:
    network = tiny.prior_network()
    files = folder / "model.safetensors", folder / "config.json"
    files[0].write_bytes(to_bytes(network))
    files[1].write_bytes(model_config(network.shape))
    rng = np.random.default_rng(0)
    tables = [
        tiny.code_table(folder / split, rng.integers(0, 11, (count, 6)), np.arange(count) % 2, 11, split)
        for split, count in (("train", 24), ("test", 8))
    ]
    config = ProbeConfig(steps=6, batch=8, precision="fp32", validation_share=0.4)
    data = ProbeData(tables[:1], tables[1:], (str(files[0]), str(files[1])), 2)
    return trained(ProbeTask(config, data, tiny.runtime()))


RUNS: dict[str, Callable[[Path], Figures]] = {
    run.__name__: run
    for run in (
        ingest,
        classify,
        statistics,
        quantize,
        tokenize,
        reconstruct,
        prior,
        sample,
        select,
        score,
        tradeoff,
        probe,
    )
}


@pytest.mark.parametrize("name", RUNS)
def test_output_moves_only_with_the_version(name: str, tmp_path: Path) -> None:
    golden = json.loads(GOLDEN.read_text())[name]
    version = registry.component(name).VERSION
    assert golden["version"] == version, f"VERSION of {name} moved: record its figures anew, see this file's docstring"
    found = RUNS[name](tmp_path)
    changed = (
        f"the output of {name} changed under VERSION {version}: raise it in components/{name}.py, then record anew"
    )
    assert found == pytest.approx(golden["figures"], rel=1e-3, abs=1e-4), changed


def record() -> None:
    """Write the figures of this machine."""
    torch.set_num_threads(1)
    golden = {}
    for name, run in RUNS.items():
        with tempfile.TemporaryDirectory() as folder:
            golden[name] = {"version": registry.component(name).VERSION, "figures": run(Path(folder))}
    GOLDEN.write_text(json.dumps(golden, indent=1) + "\n")


if __name__ == "__main__":
    record()
