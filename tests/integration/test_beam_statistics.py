"""`statistics` through Beam against numpy on all images at once: moments, score sums, feature samples, references."""

from __future__ import annotations

import dataclasses
import hashlib
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision

from components.contract.api import Artifact, Context
from components.score import component as score
from components.statistics import component as statistics
from tests.support.ingested import contents, digits_table, kept
from tests.support.synthetic import classifier, context_of, everything, inputs_of
from vim_core.config import ScoreConfig, StatisticsConfig
from vim_core.data.image_tables import ImageTable, stable_hash
from vim_core.data.images import decode
from vim_core.errors import ConfigError, DataError
from vim_core.features import FeatureSpec, load_extractor
from vim_core.metrics import feature_statistics
from vim_core.metrics.feature_statistics import FeatureSample, rank_of, split_of
from vim_core.metrics.frechet import Moments, frechet_distance
from vim_core.metrics.inception_score import ScoreSums
from vim_core.metrics.neighbours import manifold_membership
from vim_core.metrics.reference import read_reference
from vim_core.storage import io

ALL = StatisticsConfig(split="train", halves=["train"], batch=10, score_splits=3, features=25)
SHARDS = 5


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    root = tmp_path_factory.mktemp("inputs")
    images = digits_table(root, shards=SHARDS)
    return {"images": images, "classifier": classifier(root, images)}


@pytest.fixture(scope="module")
def measured(inputs: dict[str, Artifact], tmp_path_factory: pytest.TempPathFactory) -> tuple[Context, Artifact]:
    ctx = context_of(tmp_path_factory.mktemp("measured"), "statistics")
    return ctx, kept(statistics.run(ALL, inputs, ctx), ctx, ALL)


def extract(inputs: dict[str, Artifact], split: str = "train") -> tuple[list[str], Any, Any]:
    """Keys, features and logits of all images of a split at once."""
    made = inputs["classifier"]
    extractor = load_extractor(FeatureSpec("classifier", made.uri("model.safetensors"), made.uri("config.json")))
    table = ImageTable(inputs["images"].uris(f"images/{split}-"))
    found = extractor.extract(torch.stack([extractor.prepare(decode(row.image)) for row in table]))
    return table.keys, found.features.numpy(), found.logits


def test_everything_in_one_pass_equals_the_whole(inputs: dict[str, Artifact], measured: Any) -> None:
    _, artifact = measured
    keys, features, logits = extract(inputs)
    splits = np.array([split_of(key, 3) for key in keys])
    whole = ScoreSums.from_batch(logits, splits, 3)
    found = feature_statistics.from_bytes(io.read_bytes(artifact.uri("inception_score/train.npz")))
    assert found.counts.tolist() == whole.counts.tolist()
    np.testing.assert_allclose(found.probabilities, whole.probabilities, rtol=1e-5)
    assert found.score() == pytest.approx(whole.score(), rel=1e-5)
    assert (artifact.manifest.metrics["is_classifier"], artifact.manifest.metrics["is_classifier_std"]) == found.score()
    sample = feature_statistics.from_bytes(io.read_bytes(artifact.uri("features/train.npz")))
    ranks = np.array([rank_of(key) for key in keys], dtype=np.uint64)
    chosen = np.argsort(ranks)[:25]
    np.testing.assert_array_equal(sample.hashes, ranks[chosen])
    np.testing.assert_allclose(sample.features, features[chosen], rtol=1e-4, atol=1e-6)
    half = np.array([stable_hash("half", key) % 2 for key in keys])
    for name, chosen in (("train", features), ("half-0", features[half == 0]), ("half-1", features[half == 1])):
        moments = Moments.from_bytes(io.read_bytes(artifact.uri(f"moments/{name}.npz")))
        assert moments.count == len(chosen)
        np.testing.assert_allclose(moments.mean, chosen.mean(axis=0), rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(moments.covariance, np.cov(chosen.astype(float).T), rtol=1e-3, atol=1e-9)
    assert (artifact.properties["count"], artifact.properties["dim"]) == (len(keys), features.shape[1])
    assert artifact.properties["network"] == {"kind": "classifier", "digest": inputs["classifier"].digest}


def test_halves_may_cover_more_than_the_reference(inputs: dict[str, Artifact], tmp_path: Path) -> None:
    ctx = context_of(tmp_path, "statistics")
    outcome = statistics.run(StatisticsConfig(split="test", halves=["train", "test"], batch=10), inputs, ctx)
    parts = [extract(inputs, split)[:2] for split in ("test", "train")]
    values = np.concatenate([features for _, features in parts])
    half = np.array([stable_hash("half", key) % 2 for keys, _ in parts for key in keys])
    for name, chosen in (("test", parts[0][1]), ("half-0", values[half == 0]), ("half-1", values[half == 1])):
        moments = Moments.from_bytes(io.read_bytes(ctx.path(f"moments/{name}.npz")))
        assert moments.count == len(chosen)
        np.testing.assert_allclose(moments.mean, chosen.mean(axis=0), rtol=1e-5, atol=1e-7)
    assert outcome.properties["count"] == len(parts[0][1])
    assert outcome.properties["halves"] == ["test", "train"]


@pytest.mark.parametrize("kind", ["moments", "inception_score", "features"])
def test_shards_are_kept_and_merge_to_any_union(measured: Any, kind: str) -> None:
    _, artifact = measured
    shards = artifact.uris(f"{kind}/train-")
    assert len(shards) == SHARDS
    assert feature_statistics.merge_files(shards).to_bytes() == io.read_bytes(artifact.uri(f"{kind}/train.npz"))
    few, rest = feature_statistics.merge_files(shards[1:3]), feature_statistics.merge_files([shards[0], *shards[3:]])
    again = feature_statistics.merge_files(shards)
    if kind == "moments":
        np.testing.assert_allclose(few.merge(rest).m2, again.m2, rtol=1e-10)
    elif kind == "features":
        assert few.merge(rest).to_bytes() == again.to_bytes()
    else:
        np.testing.assert_allclose(few.merge(rest).negentropy, again.negentropy, rtol=1e-10)


def test_halves_and_plain_moments_do_not_depend_on_what_else_is_asked_for(
    inputs: dict[str, Artifact], measured: Any, tmp_path: Path
) -> None:
    plain = dataclasses.replace(ALL, score_splits=0, features=0)
    ctx = context_of(tmp_path, "statistics")
    statistics.run(plain, inputs, ctx)
    found, everything_kept = contents(ctx), contents(measured[0])
    assert all(name.startswith("moments/") for name in found)
    assert found == {name: everything_kept[name] for name in found}
    others = {name for name in everything_kept if name not in found}
    assert {name.split("/")[0] for name in others} == {"inception_score", "features"}


def test_interrupted_work_gives_the_same_bytes(inputs: dict[str, Artifact], measured: Any, tmp_path: Path) -> None:
    ctx = context_of(tmp_path, "statistics")
    statistics.run(ALL, inputs, ctx)
    next(Path(ctx.work).rglob("moments/train-00002.npz")).unlink()
    next(Path(ctx.work).rglob("features/train-00002.npz")).unlink()
    ages = {path: path.stat().st_mtime_ns for path in Path(ctx.work).rglob("*-00000.npz")}
    ctx.out = str(tmp_path / "again")
    statistics.run(ALL, inputs, ctx)
    assert contents(ctx) == contents(measured[0])
    assert {path: path.stat().st_mtime_ns for path in ages} == ages
    assert ages


@pytest.mark.slow
def test_two_processes_give_the_same_bytes(inputs: dict[str, Artifact], measured: Any, tmp_path: Path) -> None:
    ctx = context_of(tmp_path, "statistics")
    ctx.run.beam_processes = 2
    statistics.run(ALL, inputs, ctx)
    assert contents(ctx) == contents(measured[0])


def test_too_few_images_are_refused(tmp_path: Path) -> None:
    images = digits_table(tmp_path, limit=9, shards=1)
    inputs = {"images": images, "classifier": classifier(tmp_path, images)}
    with pytest.raises(DataError, match="needs 2: too few in split test"):
        statistics.run(StatisticsConfig(split="test"), inputs, context_of(tmp_path, "statistics"))


@pytest.mark.parametrize("count", [1, 2, 7, 16, 21])
def test_merging_is_bit_equal_in_any_order_and_grouping(tmp_path: Path, count: int) -> None:
    rng = np.random.default_rng(3)
    parts = [Moments.from_batch(rng.normal(size=(rng.integers(0, 9), 4))) for _ in range(count)]
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


def weights(folder: Path) -> tuple[str, str]:
    torch.manual_seed(0)
    path = folder / "net.pth"
    torch.save(torchvision.models.squeezenet1_1().state_dict(), path)
    return str(path), hashlib.sha256(path.read_bytes()).hexdigest()


def test_another_network_needs_no_classifier(tmp_path: Path) -> None:
    uri, digest = weights(tmp_path)
    config = StatisticsConfig("torchvision:squeezenet1_1", uri, digest[:12], batch=8, export=True)
    ctx = context_of(tmp_path, "statistics")
    images = digits_table(tmp_path, limit=24, shards=2)
    outcome = statistics.run(config, {"images": images}, ctx)
    network = outcome.properties["network"]
    assert (network["kind"], network["digest"], network["published"]) == ("torchvision:squeezenet1_1", digest, False)
    assert "resize_size" in network["preprocessing"]
    extractor = load_extractor(FeatureSpec(config.network, uri, sha256=digest))
    table = ImageTable(images.uris("images/test-"))
    features = extractor.extract(torch.stack([extractor.prepare(decode(row.image)) for row in table])).features.numpy()
    found = read_reference(ctx.path("export/test.npz")).gaussian
    assert found is not None
    assert (found.dim, found.count) == (512, len(table))
    np.testing.assert_allclose(found.mean, features.mean(axis=0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found.covariance, np.cov(features.T), rtol=1e-2, atol=1e-6)


def test_missing_weights_are_said_before_any_work(inputs: dict[str, Artifact], tmp_path: Path) -> None:
    ctx = context_of(tmp_path, "statistics")
    with pytest.raises(ConfigError, match=r"statistics\.weights is empty.*weights-inception-2015-12-05-6726825d"):
        statistics.run(StatisticsConfig("inception"), inputs, ctx)
    assert not Path(ctx.work).exists()


def reference_run(inputs: dict[str, Artifact], root: Path, path: Path, **fields: Any) -> tuple[Context, Artifact]:
    config = dataclasses.replace(ALL, reference=str(path), **fields)
    ctx = context_of(root, "statistics")
    return ctx, kept(statistics.run(config, inputs, ctx), ctx, config)


def test_a_published_reference_travels_with_the_statistics(inputs: dict[str, Artifact], tmp_path: Path) -> None:
    path = tmp_path / "ref.npz"
    made = Moments.from_batch(np.random.default_rng(0).normal(size=(50, 4)))
    np.savez(path, mu=made.mean, sigma=made.covariance)
    _, artifact = reference_run(inputs, tmp_path, path)
    given = artifact.properties["reference"]
    assert given["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (given["uri"], given["statistics"], given["count"]) == (str(path), "its own mu and sigma", 0)
    found = read_reference(artifact.uri("reference.npz")).gaussian
    assert found is not None
    np.testing.assert_array_equal(found.covariance, made.covariance)


def test_a_batch_of_images_alone_is_measured(inputs: dict[str, Artifact], tmp_path: Path) -> None:
    table = ImageTable(inputs["images"].uris("images/test-"))
    images = np.stack([decode(row.image) for row in table])
    path = tmp_path / "batch.npz"
    np.savez_compressed(path, images)
    _, artifact = reference_run(inputs, tmp_path, path)
    given = artifact.properties["reference"]
    assert (given["statistics"], given["count"]) == ("measured on its images", len(images))
    found = read_reference(artifact.uri("reference.npz")).gaussian
    assert found is not None
    _, features, _ = extract(inputs, "test")
    np.testing.assert_allclose(found.mean, features.mean(axis=0), rtol=1e-4, atol=1e-6)
    sample = feature_statistics.from_bytes(io.read_bytes(artifact.uri("features/reference-images.npz")))
    assert len(sample.features) == 25


def test_references_that_do_not_fit_are_refused(inputs: dict[str, Artifact], tmp_path: Path) -> None:
    path = tmp_path / "ref.npz"
    np.savez(path, mu=np.zeros(5), sigma=np.eye(5))
    with pytest.raises(DataError, match="dimension 5, classifier has 4: they come from another network"):
        reference_run(inputs, tmp_path, path)
    with pytest.raises(DataError, match=r"sha256 is .*not statistics\.reference_sha256=00000000"):
        reference_run(inputs, tmp_path, path, reference_sha256="0" * 8)
    with pytest.raises(DataError, match=r"statistics\.reference=.*no such file"):
        reference_run(inputs, tmp_path, tmp_path / "none.npz")


def test_the_source_state_follows_the_reference_unless_its_hash_is_given(tmp_path: Path) -> None:
    path = tmp_path / "ref.npz"
    path.write_bytes(b"one")
    config = StatisticsConfig(reference=str(path))
    first = statistics.source_state(config)
    path.write_bytes(b"other")
    assert statistics.source_state(config) != first
    assert statistics.source_state(dataclasses.replace(config, reference_sha256="0" * 8)) == ""
    assert statistics.source_state(StatisticsConfig()) == ""
    with pytest.raises(DataError, match="no such file"):
        statistics.source_state(StatisticsConfig(reference=str(tmp_path / "none.npz")))


def test_score_compares_samples_by_everything_that_was_measured(tmp_path: Path) -> None:
    made = everything(tmp_path)
    path = tmp_path / "ref.npz"
    published = Moments.from_batch(np.random.default_rng(0).normal(size=(50, 4)))
    np.savez(path, mu=published.mean, sigma=published.covariance)
    config = StatisticsConfig(batch=5, score_splits=2, features=11, reference=str(path))
    ctx = context_of(tmp_path / "statistics", "statistics")
    images = {"images": made["ingest"], "classifier": made["classify"]}
    measured = kept(statistics.run(config, images, ctx), ctx, config, digest="s" * 64)
    inputs_record = made["statistics"].manifest.inputs
    made["statistics"] = Artifact(measured.folder, dataclasses.replace(measured.manifest, inputs=inputs_record))
    inputs = inputs_of(score.INPUTS, made)
    ctx = context_of(tmp_path / "score", "score")
    outcome = score.run(ScoreConfig(usage_batch=4, batch=3, batch_file=True), inputs, ctx)
    _check_figures(outcome, ctx, measured, published)
    images_kept = np.load(ctx.path("batch.npz"), allow_pickle=False)["arr_0"]
    table = ImageTable(made["sample"].uris("images/"))
    np.testing.assert_array_equal(images_kept, np.stack([decode(row.image) for row in table]))


def _check_figures(outcome: Any, ctx: Context, measured: Artifact, published: Moments) -> None:
    samples = {kind: feature_statistics.from_bytes(io.read_bytes(ctx.path(f"{kind}/samples.npz"))) for kind in
               ("moments", "inception_score", "features")}  # fmt: skip
    real: FeatureSample = feature_statistics.from_bytes(io.read_bytes(measured.uri("features/test.npz")))
    figures, protocols = outcome.metrics, outcome.protocols
    assert figures["fd_classifier_reference"] == pytest.approx(frechet_distance(samples["moments"], published))
    members = manifold_membership(real.features, samples["features"].features)
    assert [figures["precision_classifier"], figures["recall_classifier"]] == [side.mean() for side in members]
    assert (figures["is_classifier"], figures["is_classifier_std"]) == samples["inception_score"].score()
    assert {name for name in figures if not name.endswith(("_low", "_high"))} - {"samples"} == set(protocols)
    assert protocols["is_classifier"]["notes"].startswith("mean (and standard deviation) over 2 splits")
    assert (protocols["precision_classifier"]["count"], protocols["precision_classifier"]["reference_count"]) == (9, 11)
    assert protocols["fd_classifier_reference"]["reference_digest"] == measured.properties["reference"]["sha256"]
    assert protocols["fd_classifier_reference"]["compares"] == "samples with published statistics"


def test_score_looks_through_the_statistics_network_without_a_classifier(tmp_path: Path) -> None:
    made = everything(tmp_path)
    uri, digest = weights(tmp_path)
    config = StatisticsConfig("torchvision:squeezenet1_1", uri, digest, batch=6)
    ctx = context_of(tmp_path / "statistics", "statistics")
    measured = kept(statistics.run(config, {"images": made["ingest"]}, ctx), ctx, config)
    record = {"images": made["statistics"].manifest.inputs["images"]}
    made["statistics"] = Artifact(measured.folder, dataclasses.replace(measured.manifest, inputs=record))
    inputs = inputs_of(score.INPUTS, {name: each for name, each in made.items() if name != "classify"})
    ctx = context_of(tmp_path / "score", "score")
    with pytest.raises(ConfigError, match=r"statistics\.weights is empty"):
        score.run(ScoreConfig(usage_batch=4), inputs, ctx)
    ctx.pipeline.statistics = config
    outcome = score.run(ScoreConfig(usage_batch=4), inputs, ctx)
    assert {"fd_squeezenet1_1", "fd_squeezenet1_1_real_vs_real"} <= set(outcome.metrics)
    assert "conditional_accuracy" not in outcome.metrics
    assert outcome.protocols["fd_squeezenet1_1"]["network_digest"] == digest
    assert "not FID" in outcome.protocols["fd_squeezenet1_1"]["notes"]
