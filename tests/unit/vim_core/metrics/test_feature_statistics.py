"""Accumulated statistics equal those of all images at once, in any batches, order and set of files."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vim_core.errors import DataError
from vim_core.features import Features
from vim_core.metrics import npz
from vim_core.metrics.feature_statistics import (
    FeatureSample,
    FeatureStatistics,
    from_bytes,
    half_of,
    insert,
    merge_all,
    merge_files,
    rank_of,
    split_of,
    total,
)
from vim_core.metrics.frechet import Moments
from vim_core.metrics.inception_score import ScoreSums
from vim_core.storage import io


def parts_of(count: int) -> list[Moments]:
    rng = np.random.default_rng(3)
    return [Moments.from_batch(rng.normal(size=(rng.integers(0, 9), 4))) for _ in range(count)]


def merged_pairwise(parts: list[Moments]) -> Moments:
    while len(parts) > 1:
        pairs = [parts[i].merge(parts[i + 1]) for i in range(0, len(parts) - 1, 2)]
        parts = pairs + (parts[-1:] if len(parts) % 2 else [])
    return parts[0]


@pytest.mark.parametrize("count", [1, 2, 3, 7, 21])
def test_any_order_gives_the_bits_of_pairwise_merging(count: int) -> None:
    parts = parts_of(count)
    expected = merged_pairwise(parts).to_bytes()
    assert merge_all(parts).to_bytes() == expected
    for seed in range(4):
        nodes: dict[tuple[int, int], Moments] = {}
        for index in np.random.default_rng(seed).permutation(count).tolist():
            insert(nodes, 0, index, parts[index])
        assert total(nodes).to_bytes() == expected


def images(count: int, dim: int, seed: int = 0) -> tuple[list[str], torch.Tensor, torch.Tensor]:
    stream = torch.Generator().manual_seed(seed)
    keys = [f"image-{row}" for row in range(count)]
    return keys, torch.randn(count, dim, generator=stream) + 3, torch.randn(count, 4, generator=stream) * 5


def summed(
    sums: FeatureStatistics, keys: list[str], features: torch.Tensor, logits: torch.Tensor, cuts: list[int]
) -> FeatureStatistics:
    for rows in np.split(np.arange(len(keys)), cuts):
        if rows.size:
            sums.add([keys[row] for row in rows], Features(features[rows], logits[rows]))
    return sums


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_any_batches_equal_the_whole(data: st.DataObject) -> None:
    count, dim = data.draw(st.integers(1, 50)), data.draw(st.integers(1, 12))
    keys, features, logits = images(count, dim, data.draw(st.integers(0, 99)))
    cuts = sorted(data.draw(st.lists(st.integers(0, count), max_size=8)))
    sums = FeatureStatistics(dim, 4, halves=True, splits=3, features=7, padded=data.draw(st.booleans()))
    moments, *halves, scores, sample = summed(sums, keys, features, logits, cuts).parts()
    half = np.array([half_of(key) for key in keys])
    for found, chosen in ((moments, features), (halves[0], features[half == 0]), (halves[1], features[half == 1])):
        whole = Moments.from_batch(chosen)
        assert found.count == whole.count
        np.testing.assert_allclose(found.mean, whole.mean, rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(found.m2, whole.m2, rtol=1e-10, atol=1e-10)
    splits = np.array([split_of(key, 3) for key in keys])
    whole_scores = ScoreSums.from_batch(logits, splits, 3)
    np.testing.assert_array_equal(scores.counts, whole_scores.counts)
    np.testing.assert_allclose(scores.probabilities, whole_scores.probabilities, rtol=1e-10, atol=1e-12)
    ranks = np.array([rank_of(key) for key in keys], dtype=np.uint64)
    assert sample.to_bytes() == FeatureSample.from_batch(features, ranks, 7).to_bytes()


def test_batches_as_large_as_the_dimension_are_leaves_of_their_own() -> None:
    """Statistics of the first version, which merged every batch, keep their bits."""
    keys, features, logits = images(30, 4)
    found = summed(FeatureStatistics(4), keys, features, logits, [6, 12, 18, 24]).parts()[0]
    leaves = [Moments.from_batch(part) for part in features.split(6)]
    assert found.to_bytes() == merge_all(leaves).to_bytes()
    padded = summed(FeatureStatistics(4, padded=True), keys, features, logits, [6, 12, 18, 24]).parts()[0]
    assert padded.to_bytes() == merge_all([Moments.empty(4), *leaves]).to_bytes()


def test_few_moments_are_held_however_many_images_come() -> None:
    sums = FeatureStatistics(2)
    for start in range(0, 512, 2):
        sums.add([str(start), str(start + 1)], Features(torch.randn(2, 2), torch.empty(2, 0)))
        assert len(sums.trees[0]) <= 9
    assert sums.parts()[0].count == 512


def test_nothing_gives_empty_parts_and_damage_is_refused() -> None:
    moments, scores, sample = FeatureStatistics(3, 4, splits=2, features=5).parts()
    assert (moments.count, scores.count, len(sample.features)) == (0, 0, 0)
    broken = FeatureStatistics(2)
    with pytest.raises(DataError, match="1 images are not finite"):
        broken.add(["a", "b"], Features(torch.tensor([[1.0, 2.0], [float("nan"), 0.0]]), torch.empty(2, 0)))


def test_the_choices_by_key_are_independent() -> None:
    """A split of the score is no half, and the features kept are no split: 2,000 keys fill every cell alike."""
    keys = [str(row) for row in range(2000)]
    cells = np.zeros((2, 3, 2))
    for key in keys:
        cells[half_of(key), split_of(key, 3), rank_of(key) >> 63] += 1
    assert cells.min() > 2000 / 12 * 0.7
    assert cells.max() < 2000 / 12 * 1.3


def test_spatial_features_have_moments_of_their_own_and_splits_may_be_given() -> None:
    keys, features, logits = images(20, 3)
    spatial = torch.randn(20, 5, generator=torch.Generator().manual_seed(1))
    given_splits = np.arange(20) % 2
    sums = FeatureStatistics(3, 4, splits=2, spatial=5)
    for rows in (slice(0, 8), slice(8, 20)):
        sums.add(keys[rows], Features(features[rows], logits[rows], spatial[rows]), given_splits[rows])
    moments, scores, found = sums.parts()
    np.testing.assert_allclose(found.m2, Moments.from_batch(spatial).m2, rtol=1e-10)
    np.testing.assert_allclose(moments.mean, Moments.from_batch(features).mean, rtol=1e-10)
    whole = ScoreSums.from_batch(logits, given_splits, 2)
    np.testing.assert_allclose(scores.probabilities, whole.probabilities, rtol=1e-12)


def statistics(rows: np.ndarray, offset: float = 0.0) -> list[Any]:
    """All three kinds of the images in these rows of 60; the key of row i is 7 i mod 61."""
    features, keys = np.random.default_rng(0).normal(size=(60, 3)).astype(np.float32)[rows], rows * 7 % 61
    return [
        Moments.from_batch(features.astype(np.float64) * [0.1, 1, 10] + offset),
        ScoreSums.from_batch(features, keys % 2, 2),
        FeatureSample.from_batch(features, keys.astype(np.uint64), 7),
    ]


def assert_same(found: Any, expected: Any) -> None:
    """Equal but for rounding."""
    assert type(found) is type(expected)
    for field in fields(expected):
        a, b = getattr(found, field.name), getattr(expected, field.name)
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10 * max(1e-3, np.abs(b).max(initial=0)))


@pytest.mark.parametrize("kind", [0, 1, 2])
@settings(max_examples=30, deadline=None)
@given(st.data())
def test_any_tree_of_parts_equals_the_whole(kind: int, data: st.DataObject) -> None:
    rows = np.array(data.draw(st.lists(st.integers(0, 59), min_size=1, unique=True)))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(rows)), max_size=6)))
    offset = data.draw(st.sampled_from([0.0, 1e3]))
    parts = [statistics(some, offset)[kind] for some in np.split(rows, cuts)]
    while len(parts) > 1:
        first = parts.pop(data.draw(st.integers(0, len(parts) - 1)))
        place = data.draw(st.integers(0, len(parts) - 1))
        parts[place] = first.merge(parts[place])
    assert_same(parts[0], statistics(rows, offset)[kind])


@pytest.mark.parametrize("kind", [0, 1, 2])
def test_files_of_any_subset_merge_to_the_whole(tmp_path: Path, kind: int) -> None:
    uris = []
    for index, rows in enumerate(np.array_split(np.arange(60), 5)):
        uris.append(str(tmp_path / f"{index}.npz"))
        io.write_bytes(uris[-1], statistics(rows)[kind].to_bytes())
    chosen = np.concatenate([np.arange(12), np.arange(24, 48)])
    assert_same(merge_files([uris[0], *uris[2:4]]), statistics(chosen)[kind])


def test_bytes_round_trip_and_bad_input_is_named() -> None:
    hashes = np.arange(4, dtype=np.uint64)
    sample = FeatureSample.from_batch(np.ones((4, 2)), hashes, 3)
    data = sample.to_bytes()
    assert FeatureSample.from_bytes(data).to_bytes() == data
    assert sample.merge(FeatureSample.empty(2, 3)).to_bytes() == data
    with pytest.raises(DataError, match="not a sample of features"):
        FeatureSample.from_bytes(b"text")
    with pytest.raises(DataError, match="do not merge"):
        sample.merge(FeatureSample.empty(2, 4))


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not a statistics file"):
        from_bytes(b"text")
    with pytest.raises(DataError, match="arrays: mu"):
        from_bytes(npz.pack(mu=np.zeros(3)))
    with pytest.raises(DataError, match="no statistics to merge"):
        merge_files([])
    uris = [str(tmp_path / str(index)) for index in range(3)]
    for uri, part in zip(uris, statistics(np.arange(9)), strict=True):
        io.write_bytes(uri, part.to_bytes())
    with pytest.raises(DataError, match="holds ScoreSums, the files before it another kind"):
        merge_files(uris)
