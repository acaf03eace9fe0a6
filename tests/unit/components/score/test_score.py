"""Score's parts against independent figures, its refusals, and what it leaves out (Beam: test_score_beam.py)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from components.contract.api import FileEntry
from components.score import component as score
from components.score import reconstructions
from components.score.measure import measure, paired_rows
from components.score.protocols import Figures
from components.score.shards import ROUNDING_DB, ReconstructionShard, SampleShard, finished, read_record
from components.tokenize.plan import code_files
from tests.support.synthetic import (
    CLASSES,
    VOCABULARY,
    artifact,
    generated,
    image_files,
    inputs_of,
    pictures,
    rows,
    tables,
    with_fields,
)
from tests.unit.components.score.test_sets import scored
from vim_core.config import ScoreConfig
from vim_core.data.code_files import CodeMeta, write_codes
from vim_core.data.code_tables import CodeTable
from vim_core.errors import DataError, LineageError
from vim_core.features import FeatureSpec

NAME = "images/test-00000-of-00002.parquet"


COMMON: dict[str, Any] = {"max_pixels": 10**6, "device": "cpu", "threads": 1}


def reconstructed(made: dict[str, Any], result: Path) -> ReconstructionShard:
    originals, outputs = made["ingest"].uri(NAME), made["reconstruct"].uri(NAME)
    return ReconstructionShard(
        result=str(result), name=NAME, originals=originals, reconstructions=outputs, complete=True, batch=4, **COMMON
    )


def sampled(made: dict[str, Any], result: Path, batch: int) -> SampleShard:
    samples = made["sample"].uri("images/samples-00000-of-00002.parquet")
    weights, config = made["classify"].uri("model.safetensors"), made["classify"].uri("config.json")
    spec = FeatureSpec("classifier", weights, config, made["classify"].digest)
    return SampleShard(
        result=str(result), set_name="samples", samples=samples, weights=weights, config=config, spec=spec, batch=batch,
        **COMMON,
    )  # fmt: skip


def test_reconstructions_are_scored_per_image_like_skimage(tmp_path: Path) -> None:
    made = tables(tmp_path)
    shard = reconstructed(made, tmp_path / "result")
    assert not finished(shard)
    measure(shard)
    assert finished(shard)
    record = read_record(shard.result)
    originals = pictures(12, 0)
    noise = np.random.default_rng(1).integers(-20, 21, size=originals.shape)
    noisy = np.clip(originals.astype(int) + noise, 0, 255).astype(np.uint8)
    assert record["keys"] == [f"image-{i:03d}" for i in range(0, 12, 2)]
    for at, i in enumerate(range(0, 12, 2)):
        expected = peak_signal_noise_ratio(originals[i], noisy[i], data_range=255)
        assert record["psnr_db"][at] == pytest.approx(expected, rel=1e-5)
        a, b = originals[i] / 255, noisy[i] / 255
        options = {"channel_axis": 2, "gaussian_weights": True, "use_sample_covariance": False, "data_range": 1.0}
        assert record["ssim"][at] == pytest.approx(structural_similarity(a, b, sigma=1.5, **options), rel=1e-5)


def test_an_equal_image_counts_with_the_rounding_of_8_bits(tmp_path: Path) -> None:
    made = tables(tmp_path)
    shard = reconstructed(made | {"reconstruct": made["ingest"]}, tmp_path / "result")
    measure(shard)
    assert read_record(shard.result)["psnr_db"] == [ROUNDING_DB] * 6
    uniform = 10 * np.log10(255**2 * 12)
    assert pytest.approx(uniform, abs=0.05) == ROUNDING_DB


@pytest.mark.parametrize(
    ("originals", "made", "whole", "message"),
    [
        (["a", "b"], ["a", "c"], False, "'c', which is not in the originals"),
        (["a", "b", "c"], ["a"], True, "2 images have no reconstruction, first 'b'"),
        (["a"], ["a", "a"], True, "reconstructed twice"),
    ],
)
def test_keys_that_do_not_match_are_refused(originals: list[str], made: list[str], whole: bool, message: str) -> None:
    with pytest.raises(DataError, match=message):
        paired_rows("shard", originals, made, whole)


def test_rows_are_paired_by_key_and_not_by_place() -> None:
    assert paired_rows("shard", ["a", "b", "c"], ["c", "a"], complete=False) == [2, 0]


@pytest.mark.parametrize("batch", [2, 64])
def test_samples_are_evaluated_by_the_classifier(tmp_path: Path, made: dict[str, Any], batch: int) -> None:
    import torch

    from vim_core.data.images import to_tensor
    from vim_core.metrics.frechet import Moments
    from vim_core.models.classifier import load_classifier

    shard = sampled(made, tmp_path / "result", batch)
    measure(shard)
    images, labels = pictures(9, 3)[0::2], [i % len(CLASSES) for i in range(0, 9, 2)]
    network = load_classifier(shard.weights, shard.config)
    with torch.inference_mode():
        right = (network(to_tensor(images)).argmax(1) == torch.tensor(labels)).sum().item()
        expected = Moments.from_batch(network.features(to_tensor(images)))
    assert read_record(shard.result) == {"count": 5, "labelled": 5, "correct": right, "size": 16}
    found = Moments.from_bytes(Path(f"{shard.result}.npz").read_bytes())
    assert found.count == 5
    np.testing.assert_allclose(found.mean, expected.mean, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(found.m2, expected.m2, rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize(
    ("component", "change", "message"),
    [
        ("reconstruct", {"tokenizer": "other"}, "reconstructions was made with tokenizer other"),
        ("sample", {"tokenizer": "other"}, "samples was made with tokenizer other"),
        ("reconstruct", {"images": "other"}, "reconstructions was made with images other"),
        (
            "statistics",
            {"network": {"kind": "classifier", "digest": "other"}},
            "statistics was made with classifier other",
        ),
    ],
)
def test_inputs_of_another_origin_are_refused(
    tmp_path: Path, made: dict[str, Any], component: str, change: dict[str, Any], message: str
) -> None:
    made[component] = with_fields(made[component], properties=made[component].properties | change)
    with pytest.raises(LineageError, match=message):
        score.check_lineage(inputs_of(score.INPUTS, made))


def test_a_code_table_of_other_images_is_refused(tmp_path: Path, made: dict[str, Any]) -> None:
    stranger = with_fields(made["ingest"], digest="other")
    made["tokenize"] = artifact(
        tmp_path / "other", "tokenize", {}, {"images": stranger}, properties=made["tokenize"].properties
    )
    with pytest.raises(LineageError, match="codes was made with images other"):
        score.check_lineage(inputs_of(score.INPUTS, made))


def test_a_missing_shard_is_refused(tmp_path: Path) -> None:
    made = tables(tmp_path)
    one = image_files("test", rows(["image-000"], [0], pictures(1, 0)), 1)
    lone = artifact(tmp_path / "x", "reconstruct", one, {"images": made["ingest"]}, config={"limit": 0},
                    properties=made["reconstruct"].properties)  # fmt: skip
    with pytest.raises(DataError, match="is not both an original and a reconstruction"):
        scored(tmp_path, made | {"reconstruct": lone})


def test_figures_of_the_codes(tmp_path: Path) -> None:
    made = tables(tmp_path)
    figures = Figures()
    reconstructions.add_codes(figures, ScoreConfig(usage_batch=5), inputs_of(score.INPUTS, made))
    codes = np.random.default_rng(2).integers(0, 8, size=(12, 4))
    expected = np.mean([len(set(codes[i : i + 5].ravel().tolist())) / 8 for i in (0, 5)])
    assert figures.metrics["codebook_usage"] == pytest.approx(expected)
    protocol = figures.protocols["codebook_usage"]
    assert (protocol["count"], protocol["split"]) == (10, "test")
    assert protocol["notes"] == "2 batches of 5 images; 2 images beyond the last full batch are left out"


def test_fewer_images_than_the_batch_of_codebook_usage_are_one_batch_and_the_protocol_says_so(tmp_path: Path) -> None:
    scored = [Figures(), Figures()]
    for figures, batch in zip(scored, (12, 256), strict=True):
        reconstructions.add_codes(figures, ScoreConfig(usage_batch=batch), inputs_of(score.INPUTS, tables(tmp_path)))
    assert scored[0].metrics == scored[1].metrics
    complete, small = (figures.protocols["codebook_usage"] for figures in scored)
    assert complete["count"] == small["count"] == 12
    assert small["notes"] == "one batch of all 12 held-out images, fewer than score.usage_batch=256: usage counts lower"
    assert complete["notes"] != small["notes"]


def test_training_images_fill_the_batch_of_codebook_usage_in_plain_view(tmp_path: Path) -> None:
    artifacts = tables(tmp_path)
    held_out = CodeTable(code_files(artifacts["tokenize"], "test"), "")
    keys, views = ["a", "a", "b", "b", "c"], np.array([0, 1, 0, 1, 0], np.int32)
    drawn = np.array([[0, 0, 0, 1], [7, 7, 7, 7], [2, 2, 2, 3], [6, 6, 6, 6], [4, 4, 4, 5]])
    meta = CodeMeta("train", (2, 2), VOCABULARY, artifacts["quantize"].digest, 2)
    path = str(Path(artifacts["tokenize"].folder, "train.parquet"))
    write_codes(path, keys, np.zeros(5, np.int64), views, drawn, meta)
    entry = FileEntry("codes/train-00000-of-00001.parquet", "train.parquet", Path(path).stat().st_size, "", 5)
    tokenized = artifacts["tokenize"]
    artifacts["tokenize"] = with_fields(tokenized, files=[*tokenized.manifest.files, entry])
    for batch, filled, more in ((14, 2, ""), (99, 3, ", fewer than score.usage_batch=99: usage counts lower")):
        figures = Figures()
        config = ScoreConfig(usage_batch=batch)
        reconstructions.add_codes(figures, config, inputs_of(score.INPUTS, artifacts), str(tmp_path / "cache"))
        codes = {*held_out.codes.ravel().tolist(), *drawn[[0, 2, 4][:filled]].ravel().tolist()}
        assert figures.metrics["codebook_usage"] == len(codes) / VOCABULARY
        protocol = figures.protocols["codebook_usage"]
        assert (protocol["count"], protocol["split"]) == (12 + filled, "test and train")
        assert protocol["notes"] == f"one batch of all 12 held-out images and {filled} training images{more}"
        assert figures.protocols["perplexity"]["count"] == 12


def test_all_figures_have_a_protocol(tmp_path: Path, made: dict[str, Any]) -> None:
    outcome = scored(tmp_path, made)
    bounds = {name for name in outcome.metrics if name.endswith(("_low", "_high"))}
    assert set(outcome.metrics) - {"samples"} - bounds == set(outcome.protocols)
    for name in {bound.removesuffix("_low").removesuffix("_high") for bound in bounds}:
        assert outcome.metrics[f"{name}_low"] <= outcome.metrics[name] <= outcome.metrics[f"{name}_high"]
        assert outcome.protocols[name]["interval"].startswith("95 %: ")
    assert set(outcome.metrics) - bounds == {
        "psnr_db",
        "ssim",
        "codebook_usage",
        "perplexity",
        "samples",
        "conditional_accuracy",
        "fd_classifier",
        "fd_classifier_real_vs_real",
        "rfd_classifier",
    }
    assert all(np.isfinite(value) for value in outcome.metrics.values())
    protocol = outcome.protocols["fd_classifier"]
    assert (protocol["count"], protocol["reference_count"]) == (9, 40)
    assert protocol["network_digest"] == made["classify"].digest
    assert protocol["sampling"] == {"seed": 0, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "guidance": 2.0}
    floor = outcome.protocols["fd_classifier_real_vs_real"]
    assert (floor["count"], floor["reference_count"]) == (2, 10)  # 12 real images, divided as 9 samples and 40
    assert "above the floor" in floor["notes"]
    assert {path.name for path in (tmp_path / "out").rglob("*") if path.is_file()} == {
        "scores.json",
        "reconstructions.parquet",
        "samples.npz",
    }


def test_without_samples_their_figures_are_absent(tmp_path: Path) -> None:
    metrics = scored(tmp_path, tables(tmp_path)).metrics
    figures = {"psnr_db", "ssim", "codebook_usage"}
    assert set(metrics) == {*figures, "perplexity", *(f"{name}_{end}" for name in figures for end in ("low", "high"))}


def test_samples_without_classes_have_a_distance_and_no_accuracy(tmp_path: Path, made: dict[str, Any]) -> None:
    made |= generated(tmp_path / "unconditional", made["quantize"], labelled=False)
    metrics = scored(tmp_path, made).metrics
    assert "conditional_accuracy" not in metrics
    assert metrics["fd_classifier"] > 0


def test_a_limit_leaves_originals_without_reconstruction(tmp_path: Path) -> None:
    made = tables(tmp_path)
    few = image_files("test", rows(["image-000", "image-001"], [0, 1], pictures(12, 0)[:2]), 2)
    made["reconstruct"] = artifact(
        tmp_path / "few",
        "reconstruct",
        few,
        {"images": made["ingest"]},
        config={"limit": 2},
        properties=made["reconstruct"].properties,
    )
    assert scored(tmp_path, made).protocols["psnr_db"]["count"] == 2
