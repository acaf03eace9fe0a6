"""Sets of generated images: accepted ones, images from outside, real ones against real; intervals; refusals."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from components.contract.api import Artifact, Outcome
from components.engines import beam
from components.exchange import tables as exchange
from components.score import component as score
from components.score import partition
from tests.support.selection import one_after_the_other
from tests.support.synthetic import (
    CLASSES,
    artifact,
    context_of,
    image_files,
    inputs_of,
    pictures,
    rows,
    with_fields,
)
from vim_core.config import ScoreConfig
from vim_core.data.images import to_tensor
from vim_core.errors import ConfigError, DataError, LineageError
from vim_core.metrics.conventions import CONVENTIONS
from vim_core.metrics.feature_statistics import FeatureSample, rank_of
from vim_core.metrics.frechet import Moments, frechet_distance
from vim_core.models.classifier import load_classifier
from vim_core.storage import io


def scored(root: Path, made: dict[str, Artifact], name: str = "score", **settings: Any) -> Outcome:
    """Score with all shards measured in this process."""
    config, ctx = ScoreConfig(usage_batch=4, **settings), context_of(root, name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(beam, "run_shards", one_after_the_other)
        return score.run(config, inputs_of(score.INPUTS, made), ctx)


def features_of(made: dict[str, Artifact], images: np.ndarray) -> np.ndarray:
    network = load_classifier(made["classify"].uri("model.safetensors"), made["classify"].uri("config.json"))
    with torch.inference_mode():
        features: np.ndarray = network.features(to_tensor(images)).numpy()
    return features


def accepted(root: Path, made: dict[str, Artifact], counts: dict[str, int], selector: str = "selector") -> Artifact:
    """A selection: at rate r the first images of the samples."""
    files: dict[str, Any] = {}
    for name, count in counts.items():
        some = rows([f"sample-{i:03d}" for i in range(count)], [i % 3 for i in range(count)], pictures(count, 3))
        files |= image_files(name, some, 2)
    properties = made["sample"].properties | {"selector": selector, "rates": [1.0, 0.25], "splits": counts}
    return artifact(root, "select", files, {"samples": made["sample"]}, properties=properties)


def test_every_rate_is_scored_under_a_name_of_its_own(tmp_path: Path, made: dict[str, Artifact]) -> None:
    made["select"] = accepted(tmp_path, made, {"accepted-1.0": 6, "accepted-0.25": 6})
    outcome = scored(tmp_path, made)
    real = Moments.from_bytes(io.read_bytes(made["statistics"].uri("moments/test.npz")))
    expected = frechet_distance(Moments.from_batch(features_of(made, pictures(6, 3))), real)
    for rate in ("1.0", "0.25"):
        assert outcome.metrics[f"fd_classifier_accepted_{rate}"] == pytest.approx(expected, rel=1e-5)
        assert outcome.metrics[f"samples_accepted_{rate}"] == 6
        record = outcome.protocols[f"fd_classifier_accepted_{rate}"]
        assert record["sampling"]["acceptance"] == rate
        assert (record["split"], record["count"]) == ("samples", 6)
        assert f"conditional_accuracy_accepted_{rate}_low" in outcome.metrics
    assert outcome.metrics["samples"] == 9


def test_rates_of_unequal_counts_are_refused(tmp_path: Path, made: dict[str, Artifact]) -> None:
    made["select"] = accepted(tmp_path, made, {"accepted-1.0": 6, "accepted-0.25": 4})
    with pytest.raises(DataError, match=r"unequal numbers of images \(accepted-0\.25 4, accepted-1\.0 6\)"):
        scored(tmp_path, made)


@pytest.mark.parametrize("evaluator", ["classifier", "statistics"])
def test_an_evaluator_that_selected_is_refused(tmp_path: Path, made: dict[str, Artifact], evaluator: str) -> None:
    if evaluator == "statistics":
        network = {"kind": "torchvision:resnet18", "digest": "abcd"}
        properties = made["statistics"].properties | {"network": network}
        made["statistics"] = with_fields(made["statistics"], properties=properties)
    selector = made["classify"].digest if evaluator == "classifier" else "abcd"
    made["select"] = accepted(tmp_path, made, {"accepted-1.0": 6}, selector)
    with pytest.raises(LineageError, match=f"cannot evaluate them as {evaluator}"):
        score.check_lineage(inputs_of(score.INPUTS, made))


def test_a_selection_of_other_samples_is_refused(tmp_path: Path, made: dict[str, Artifact]) -> None:
    chosen = accepted(tmp_path, made, {"accepted-1.0": 6})
    made["select"] = with_fields(chosen, properties=chosen.properties | {"samples": made["sample"].digest})
    score.check_lineage(inputs_of(score.INPUTS, made))
    made["select"] = with_fields(chosen, properties=chosen.properties | {"samples": "other"})
    with pytest.raises(LineageError, match="accepted was made with samples other"):
        score.check_lineage(inputs_of(score.INPUTS, made))


def test_intervals_leave_out_groups(tmp_path: Path, made: dict[str, Artifact]) -> None:
    outcome = scored(tmp_path, made, groups=2)
    for name in ("fd_classifier", "rfd_classifier", "perplexity"):
        low, value, high = (outcome.metrics[f"{name}{end}"] for end in ("_low", "", "_high"))
        assert low < value < high
        assert "jackknife over 2 groups" in outcome.protocols[name]["interval"]
    assert "fd_classifier_low" not in scored(tmp_path, made, "none", groups=0).metrics


def test_reconstructions_are_compared_with_their_originals_as_sets(tmp_path: Path, made: dict[str, Artifact]) -> None:
    outcome = scored(tmp_path, made)
    originals = pictures(12, 0)
    noise = np.random.default_rng(1).integers(-20, 21, size=originals.shape)
    noisy = np.clip(originals.astype(int) + noise, 0, 255).astype(np.uint8)
    sides = [Moments.from_batch(features_of(made, images)) for images in (noisy, originals)]
    assert outcome.metrics["rfd_classifier"] == pytest.approx(frechet_distance(*sides), rel=1e-4)
    assert outcome.protocols["rfd_classifier"]["count"] == 12
    assert "rfd_classifier" not in scored(tmp_path, made, "without", reconstructed=False).metrics


@pytest.mark.parametrize(
    ("samples", "real", "pool", "expected"),
    [(1000, 297, 1797, (1000, 297)), (9, 40, 12, (2, 10)), (50, 50, 60, (30, 30)), (1, 1, 2, (0, 2))],
)
def test_real_sets_are_as_large_as_the_samples_figure_has_them(
    samples: int, real: int, pool: int, expected: tuple[int, int]
) -> None:
    if expected == (0, 2):  # nothing to divide: the halves are told instead
        assert min(partition.set_sizes(samples, real, 3)) < 2
    else:
        assert partition.set_sizes(samples, real, pool) == expected


def test_the_floor_is_of_as_many_real_images_that_do_not_overlap(tmp_path: Path, made: dict[str, Artifact]) -> None:
    counted = made["statistics"].properties | {"count": 3}
    made["statistics"] = with_fields(made["statistics"], properties=counted)
    outcome = scored(tmp_path, made)
    record = outcome.protocols["fd_classifier_real_vs_real"]
    assert (record["count"], record["reference_count"]) == (9, 3)
    assert record["notes"].startswith("the floor of the samples' figure")
    thresholds = partition.rank_thresholds(inputs_of(score.INPUTS, made), 9)
    assert thresholds is not None
    side = np.array([partition.set_of(f"image-{i:03d}", thresholds) for i in range(12)])
    assert np.bincount(side).tolist() == [9, 3]
    sets = [Moments.from_batch(features_of(made, pictures(12, 0)[side == s])) for s in (0, 1)]
    assert outcome.metrics["fd_classifier_real_vs_real"] == pytest.approx(frechet_distance(*sets), rel=1e-4)


def test_without_the_floor_two_halves_are_compared(tmp_path: Path, made: dict[str, Artifact]) -> None:
    record = scored(tmp_path, made, floor=False).protocols["fd_classifier_real_vs_real"]
    assert (record["count"], record["reference_count"]) == (20, 20)


def with_files(
    made: dict[str, Artifact], root: Path, files: dict[str, Any], config: dict[str, Any], **properties: Any
) -> dict[str, Artifact]:
    """Statistics with further files, of other settings."""
    old = made["statistics"]
    names = [entry.name for entry in old.manifest.files]
    copies = {name: lambda uri, name=name: io.write_bytes(uri, io.read_bytes(old.uri(name))) for name in names}
    again = artifact(root / "again", "statistics", copies | files, properties=old.properties | properties)
    return made | {"statistics": with_fields(again, config=config, inputs=old.manifest.inputs)}


def sample_file(features: np.ndarray, keys: list[str]) -> Any:
    """Writer of the features of all these images."""
    ranks = np.array([rank_of(key) for key in keys], dtype=np.uint64)
    sample = FeatureSample.from_batch(features, ranks, 50)
    return lambda uri: io.write_bytes(uri, sample.to_bytes())


def with_features(made: dict[str, Artifact], root: Path) -> dict[str, Artifact]:
    """Statistics that kept the features of all real images and summed the score of samples in two splits."""
    file = sample_file(features_of(made, pictures(12, 0)), [f"image-{i:03d}" for i in range(12)])
    return with_files(made, root, {"features/test.npz": file}, {"features": 50, "score_splits": 2})


def test_figures_of_single_features(tmp_path: Path, made: dict[str, Artifact]) -> None:
    from vim_core.metrics.neighbours import density_coverage, manifold_membership

    made = with_features(made, tmp_path)
    outcome = scored(tmp_path, made)
    x, y = features_of(made, pictures(9, 3)), features_of(made, pictures(12, 0))
    precision, recall = (side.mean() for side in manifold_membership(y, x))
    density, covered = density_coverage(y, x)
    expected = {"precision": precision, "recall": recall, "density": density.mean(), "coverage": covered.mean()}
    for name, value in expected.items():
        assert outcome.metrics[f"{name}_classifier"] == pytest.approx(value, abs=1e-6)
        assert outcome.metrics[f"{name}_classifier_low"] <= value <= outcome.metrics[f"{name}_classifier_high"]
        assert outcome.protocols[f"{name}_classifier"]["count"] == 9
    assert np.isfinite(outcome.metrics["kd_classifier"])
    assert "100 subsets of 9" in outcome.protocols["kd_classifier"]["notes"]
    assert outcome.metrics["is_classifier_low"] <= outcome.metrics["is_classifier"]


def test_the_rules_of_others_are_followed_and_told(tmp_path: Path, made: dict[str, Artifact]) -> None:
    made = with_features(made, tmp_path)
    outcome = scored(tmp_path, made, protocol="guided-diffusion")
    for name in ("fd_classifier", "is_classifier", "precision_classifier"):
        assert outcome.protocols[name]["protocol"] == "guided-diffusion"
    assert "consecutive blocks of 5000" in outcome.protocols["is_classifier"]["notes"]
    assert not {"kd_classifier", "density_classifier"} & outcome.metrics.keys()
    network = load_classifier(made["classify"].uri("model.safetensors"), made["classify"].uri("config.json"))
    with torch.inference_mode():
        p = network(to_tensor(pictures(9, 3))).double().softmax(1).numpy()
    expected = np.exp((p * (np.log(p) - np.log(p.mean(0)))).sum(1).mean())
    assert outcome.metrics["is_classifier"] == pytest.approx(expected, rel=1e-5)


def test_rules_that_want_every_image_refuse_fewer(tmp_path: Path, made: dict[str, Artifact]) -> None:
    made = with_features(made, tmp_path)
    made["statistics"] = with_fields(made["statistics"], config={"features": 8, "score_splits": 0})
    with pytest.raises(ConfigError, match=r"all 9 samples, and statistics\.features=8"):
        scored(tmp_path, made, protocol="torch-fidelity")


@pytest.mark.parametrize("form", ["outside.npz", "outside"])
def test_images_from_outside_are_scored_like_samples(tmp_path: Path, made: dict[str, Artifact], form: str) -> None:
    target = str(tmp_path / form)
    exchange.export_table(made["sample"].uris("images/"), target, CLASSES)
    inside, outside = scored(tmp_path, made), scored(tmp_path, made, "again", samples_from=target)
    assert outside.metrics["fd_classifier"] == pytest.approx(inside.metrics["fd_classifier"], rel=1e-5)
    assert outside.protocols["fd_classifier"]["sampling"]["from"] == target
    # classes come back from the names of folders; an npz has none
    assert ("conditional_accuracy" in outside.metrics) == (form == "outside")
    before = score.source_state(ScoreConfig(samples_from=target))
    exchange.export_table(made["ingest"].uris("images/"), target, CLASSES)
    assert score.source_state(ScoreConfig(samples_from=target)) != before
    assert score.source_state(ScoreConfig()) == ""


def test_the_images_of_a_reference_file_are_compared_with_too(tmp_path: Path, made: dict[str, Artifact]) -> None:
    from vim_core.metrics.neighbours import manifold_membership
    from vim_core.metrics.reference import write_reference

    made = with_features(made, tmp_path)
    features = features_of(made, pictures(8, 11))
    gaussian = Moments.from_batch(features).gaussian()
    files = {
        "features/reference-images.npz": sample_file(features, [f"reference-images-{i:08d}" for i in range(8)]),
        "reference.npz": lambda uri: write_reference(uri, gaussian),
    }
    given = {"uri": "ref.npz", "sha256": "f" * 64, "count": 8, "statistics": "measured on its images", "images": 8}
    config = made["statistics"].manifest.config
    made = with_files(made, tmp_path / "file", files, config, reference=given)
    outcome = scored(tmp_path, made, protocol="guided-diffusion")
    own = features_of(made, pictures(9, 3))
    for name, side in zip(("precision", "recall"), manifold_membership(features, own), strict=True):
        assert outcome.metrics[f"{name}_classifier_reference"] == pytest.approx(side.mean())
    record = outcome.protocols["precision_classifier_reference"]
    assert (record["reference_digest"], record["reference_count"], record["count"]) == ("f" * 64, 8, 9)
    distance = frechet_distance(Moments.from_batch(own), gaussian)
    assert outcome.metrics["fd_classifier_reference"] == pytest.approx(distance, rel=1e-4)


def test_spatial_features_are_compared_where_statistics_have_them(
    tmp_path: Path, made: dict[str, Artifact], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network with three spatial features beside the classifier's own: the mean of each colour."""
    from components.score import measure as measuring
    from vim_core.features import load_extractor

    def with_colours(spec: Any) -> Any:
        extractor = load_extractor(spec)
        extract = extractor.extract
        extractor.spatial = 3
        monkeypatch.setattr(extractor, "extract", lambda batch: replace(extract(batch), spatial=batch.mean(dim=(2, 3))))
        return extractor

    real = Moments.from_batch(np.random.default_rng(0).normal(0.5, 0.1, (30, 3)))
    files = {"spatial/test.npz": lambda uri: io.write_bytes(uri, real.to_bytes())}
    made = with_files(made, tmp_path, files, {"spatial": True})
    monkeypatch.setattr(measuring, "cached_extractor", with_colours)
    outcome = scored(tmp_path, made, groups=2)
    colours = pictures(9, 3).mean(axis=(1, 2)) / 255
    expected = frechet_distance(Moments.from_batch(colours), real)
    assert outcome.metrics["sfd_classifier"] == pytest.approx(expected, rel=1e-4)
    assert outcome.metrics["sfd_classifier_low"] <= expected <= outcome.metrics["sfd_classifier_high"]
    assert "sFID" in outcome.protocols["sfd_classifier"]["notes"]


def test_kid_is_torch_fidelitys_on_the_same_images_in_their_order(
    tmp_path: Path, made: dict[str, Artifact], monkeypatch: pytest.MonkeyPatch
) -> None:
    metric = pytest.importorskip("torch_fidelity.metric_kid")
    from vim_core.metrics import kernel_distance

    monkeypatch.setattr(kernel_distance, "SUBSET_SIZE", 5)
    made = with_features(made, tmp_path)
    made["statistics"] = with_fields(made["statistics"], config={"features": 50, "score_splits": 0})
    monkeypatch.setitem(CONVENTIONS, "torch-fidelity", replace(CONVENTIONS["torch-fidelity"], splits="hash"))
    found = scored(tmp_path, made, protocol="torch-fidelity")
    order = [np.concatenate([np.arange(shard, count, 2) for shard in (0, 1)]) for count in (9, 12)]
    x, y = features_of(made, pictures(9, 3)[order[0]]), features_of(made, pictures(12, 0)[order[1]])
    sides = (torch.from_numpy(x).double(), torch.from_numpy(y).double())
    expected = metric.kid_features_to_metric(*sides, kid_subset_size=5, kid_subsets=100, verbose=False)
    assert found.metrics["kd_classifier"] == pytest.approx(expected["kernel_inception_distance_mean"], rel=1e-4)
    assert found.protocols["kd_classifier"]["protocol"] == "torch-fidelity"
