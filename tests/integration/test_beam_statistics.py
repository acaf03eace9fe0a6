"""`statistics` through Beam against numpy on all features at once; merging in any order gives the same bits."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from components.contract.api import Artifact
from components.statistics import component as statistics
from tests.support.ingested import contents, digits_table
from tests.support.synthetic import classifier, context_of
from vim_core.config import StatisticsConfig
from vim_core.data.image_tables import ImageTable, stable_hash
from vim_core.data.images import center_crop, decode, to_tensor
from vim_core.errors import DataError
from vim_core.metrics.moments import Moments
from vim_core.models.classifier import load_classifier
from vim_core.storage import io

CONFIG = StatisticsConfig(split="train", halves=["train"], batch=10)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    root = tmp_path_factory.mktemp("inputs")
    images = digits_table(root)
    return {"images": images, "classifier": classifier(root, images)}


def moments(ctx: Any, name: str) -> Moments:
    return Moments.from_bytes(io.read_bytes(ctx.path(f"moments/{name}.npz")))


def features(inputs: dict[str, Artifact], split: str = "train") -> tuple[list[str], np.ndarray[Any, Any]]:
    network = load_classifier(inputs["classifier"].uri("model.safetensors"), inputs["classifier"].uri("config.json"))
    table = ImageTable(inputs["images"].uris(f"images/{split}-"))
    pixels = np.stack([center_crop(decode(row.image), network.image_size) for row in table])
    with torch.inference_mode():
        return table.keys, network.features(to_tensor(pixels)).double().numpy()


def test_moments_equal_those_of_all_features_at_once(inputs: dict[str, Artifact], tmp_path: Path) -> None:
    ctx = context_of(tmp_path, "statistics")
    outcome = statistics.run(CONFIG, inputs, ctx)
    keys, values = features(inputs)
    half = np.array([stable_hash("half", key) % 2 for key in keys])
    for name, chosen in (("train", values), ("half-0", values[half == 0]), ("half-1", values[half == 1])):
        found = moments(ctx, name)
        assert found.count == len(chosen)
        np.testing.assert_allclose(found.mean, chosen.mean(axis=0), rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(found.covariance, np.cov(chosen.T), rtol=1e-3, atol=1e-9)
    assert 0.3 < half.mean() < 0.7
    shards = [moments(ctx, f"train-{index:05d}").count for index in range(3)]
    assert sum(shards) == len(keys)
    assert outcome.properties["network"] == {"kind": "classifier", "digest": inputs["classifier"].digest}
    assert (outcome.properties["count"], outcome.properties["dim"]) == (len(keys), values.shape[1])


def test_halves_may_cover_more_than_the_reference(inputs: dict[str, Artifact], tmp_path: Path) -> None:
    ctx = context_of(tmp_path, "statistics")
    outcome = statistics.run(StatisticsConfig(split="test", halves=["train", "test"], batch=10), inputs, ctx)
    parts = [features(inputs, split) for split in ("test", "train")]
    values = np.concatenate([part[1] for part in parts])
    half = np.array([stable_hash("half", key) % 2 for part in parts for key in part[0]])
    for name, chosen in (("test", parts[0][1]), ("half-0", values[half == 0]), ("half-1", values[half == 1])):
        assert moments(ctx, name).count == len(chosen)
        np.testing.assert_allclose(moments(ctx, name).mean, chosen.mean(axis=0), rtol=1e-5, atol=1e-7)
    assert outcome.properties["count"] == len(parts[0][1])
    assert outcome.properties["halves"] == ["test", "train"]


def test_the_same_bytes_again_and_after_an_interruption(inputs: dict[str, Artifact], tmp_path: Path) -> None:
    made = []
    for name in ("first", "second"):
        ctx = context_of(tmp_path / name, "statistics")
        statistics.run(CONFIG, inputs, ctx)
        made.append(contents(ctx))
    next(Path(ctx.work).rglob("train-00001.npz")).unlink()
    ages = {path: path.stat().st_mtime_ns for path in Path(ctx.work).rglob("*-00000.npz")}
    ctx.out = str(tmp_path / "again")
    statistics.run(CONFIG, inputs, ctx)
    assert made[0] == made[1] == contents(ctx)
    assert {path: path.stat().st_mtime_ns for path in ages} == ages
    assert len(ages) == 3


def test_too_few_images_are_refused(tmp_path: Path) -> None:
    images = digits_table(tmp_path, limit=9, shards=1)
    inputs = {"images": images, "classifier": classifier(tmp_path, images)}
    with pytest.raises(DataError, match="needs 2: too few in split test"):
        statistics.run(StatisticsConfig(split="test"), inputs, context_of(tmp_path, "statistics"))


def leaves(count: int) -> list[Moments]:
    rng = np.random.default_rng(3)
    return [Moments.from_batch(rng.normal(size=(rng.integers(0, 9), 4))) for _ in range(count)]


@pytest.mark.parametrize("count", [1, 2, 3, 7, 16, 21])
def test_merging_is_bit_equal_in_any_order_and_grouping(tmp_path: Path, count: int) -> None:
    parts = leaves(count)
    for index, part in enumerate(parts):
        io.write_bytes(str(tmp_path / f"{index}.npz"), part.to_bytes())
    combine = statistics.merge_in_order()
    results = set()
    for seed in range(6):
        order = list(range(count))
        random.Random(seed).shuffle(order)
        cuts = [order[i :: seed + 1] for i in range(seed + 1)]
        accumulators = []
        for cut in cuts:
            accumulator = combine.create_accumulator()
            for index in cut:
                accumulator = combine.add_input(accumulator, (index, str(tmp_path / f"{index}.npz")))
            accumulators.append(accumulator)
        results.add(combine.extract_output(combine.merge_accumulators(accumulators)).to_bytes())
    assert len(results) == 1
    found = Moments.from_bytes(results.pop())
    assert found.count == sum(part.count for part in parts)
