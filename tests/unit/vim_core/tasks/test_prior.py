"""Stage 2 from code tables and from images encoded on the fly: the same bits, exact resume; pictures of samples."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.support.tiny import (
    Killed,
    assert_equal_bits,
    image_table,
    killed_at,
    pixels,
    prior_config,
    prior_network,
    state_of,
    tokenizer_network,
)
from vim_core.checkpoint.checkpoints import Checkpoints
from vim_core.config import AugmentConfig
from vim_core.data.code_files import CodeMeta, write_codes
from vim_core.data.image_tables import ImageRow, write_images
from vim_core.data.images import encode_png, grid_png, pixel_tensor, to_tensor
from vim_core.data.step_reader import StepImages
from vim_core.distributed.runtimes.base import CpuRuntime
from vim_core.errors import DataError, LineageError
from vim_core.models.vit_vqgan import Tokenizer, model_config
from vim_core.sampling.logits import SamplingSettings
from vim_core.sampling.sampler import Sampler
from vim_core.tasks import prior_source
from vim_core.tasks.prior import PriorData, PriorTask, preview, preview_labels
from vim_core.training.loop import train
from vim_core.training.spool import Spool
from vim_core.weights.saving import to_bytes

DIGEST = "t" * 64
VIEW = AugmentConfig(flip=0.5, shift=0.3)
SHARDS, COUNT = 3, 23


def shard(folder: Path, tokenizer: Tokenizer, number: int, rows: list[int], images: np.ndarray) -> tuple[str, str]:
    """One shard of images and, as tokenize makes it, its table of plain codes."""
    keys = [f"image-{row:03d}" for row in rows]
    labels = np.array([row % 3 for row in rows])
    table = [
        ImageRow(key, int(label), encode_png(images[row]), 8, 8, "test")
        for key, label, row in zip(keys, labels, rows, strict=True)
    ]
    names = str(folder / f"images-{number}.parquet"), str(folder / f"codes-{number}.parquet")
    write_images(names[0], table)
    codes = tokenizer.encode(to_tensor(images[rows])).numpy()
    write_codes(names[1], keys, labels, np.zeros(len(rows), np.int32), codes, CodeMeta("train", (2, 2), 16, DIGEST))
    return names


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PriorData:
    folder = tmp_path_factory.mktemp("stage2")
    network = tokenizer_network()
    (folder / "model.safetensors").write_bytes(to_bytes(network))
    (folder / "config.json").write_bytes(model_config(network.config))
    images = pixels(COUNT, 8)
    tokenizer = Tokenizer(network)
    shards = [shard(folder, tokenizer, n, list(range(n, COUNT, SHARDS)), images) for n in range(SHARDS)]
    return PriorData(
        train=[codes for _, codes in shards],
        test=[shards[0][1]],
        classes=3,
        tokenizer=DIGEST,
        images=[uri for uri, _ in shards],
        tokenizer_files=(str(folder / "model.safetensors"), str(folder / "config.json")),
    )


def task_of(data: PriorData, rank: int = 0, world: int = 1, precision: str = "fp32", **fields: Any) -> PriorTask:
    return PriorTask(prior_config(**fields), data, CpuRuntime(precision, 1, rank, world))


def trained(task: PriorTask, steps: int = 6) -> dict[str, Tensor]:
    for step in range(steps):
        task.runtime.seed_step(task.config.seed, step)
        task.step(step, task.batch(step))
    return state_of(task)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_without_augmentation_both_sources_train_the_same_bits(data: PriorData, precision: str) -> None:
    """Six batches of seven cross an epoch of 23 images over three shards."""
    of_codes, of_images = (task_of(data, source=s, batch=7, precision=precision) for s in ("codes", "images"))
    assert_equal_bits(trained(of_images), trained(of_codes))
    assert of_images.finish() == of_codes.finish()
    assert of_images.export() == of_codes.export()


def test_views_differ_from_epoch_to_epoch_and_come_back_with_the_key(data: PriorData) -> None:
    rows = np.arange(COUNT)

    def views(task: PriorTask, positions: np.ndarray, rows: np.ndarray = rows) -> Tensor:
        assert isinstance(task.source, prior_source.ImageSource)
        encoded = [task.source.images.table.image(row) for row in rows.tolist()]
        return task.source.read(StepImages(positions, rows, encoded))["images"]

    task, again = (task_of(data, source="images", augment=VIEW, batch=COUNT) for _ in range(2))
    epochs = []
    for epoch in range(2):
        positions = rows + epoch * COUNT
        epochs.append(views(task, positions))
        assert torch.equal(views(again, positions[::-1], rows[::-1]).flip(0), epochs[-1])
    assert not torch.equal(epochs[0], epochs[1])
    plain = views(task_of(data, source="images"), rows)
    assert torch.equal(plain[5], pixel_tensor(pixels(COUNT, 8)[task_rows(5)]))
    assert not torch.equal(views(task_of(data, source="images", augment=VIEW, seed=1), rows), epochs[0])


def task_rows(row: int) -> int:
    """Which picture lies in a row of the three shards."""
    return [picture for number in range(SHARDS) for picture in range(number, COUNT, SHARDS)][row]


def test_codes_are_those_of_the_augmented_images(data: PriorData) -> None:
    task = task_of(data, source="images", augment=VIEW, batch=8)
    batch = task.batch(3)
    assert batch["images"].shape == (8, 3, 8, 8)
    codes = task.source.codes(batch, task.runtime)
    assert torch.equal(codes, Tokenizer(tokenizer_network()).encode(batch["images"]))
    assert not codes.is_inference()


def test_a_table_of_many_row_groups_keeps_their_order(data: PriorData, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prior_source, "INTERLEAVE", 2)
    source = task_of(data, source="images").source
    assert isinstance(source, prior_source.ImageSource)
    assert source.order is source.images.order


def finished(task: PriorTask, folder: Path, workers: int = 0) -> dict[str, Tensor]:
    train(
        task, Checkpoints(str(folder / "checkpoints"), {"f": "f"}, task.runtime), Spool(folder / "spool.jsonl"), workers
    )
    return state_of(task)


def test_resumed_equals_uninterrupted(data: PriorData, tmp_path: Path) -> None:
    def make() -> PriorTask:
        return task_of(data, source="images", augment=VIEW, batch=8, accumulate=2)

    whole = finished(make(), tmp_path / "whole")
    with pytest.raises(Killed):
        finished(killed_at(make(), 3), tmp_path / "killed")  # type: ignore[arg-type]
    assert_equal_bits(finished(make(), tmp_path / "killed", workers=1), whole)


def test_the_tokenizer_stays_as_it_is_and_out_of_checkpoints(data: PriorData) -> None:
    task = task_of(data, source="images", augment=VIEW)
    assert isinstance(task.source, prior_source.ImageSource)
    state = trained(task, 2)
    assert not any("codebook" in name for name in state)
    kept = task.source.tokenizer.model.state_dict()
    assert_equal_bits(dict(kept), dict(tokenizer_network().state_dict()))


def test_codes_of_another_tokenizer_or_grid_are_refused(data: PriorData, tmp_path: Path) -> None:
    with pytest.raises(LineageError, match="codes of tokenizer tttttttttttt, expected uuuuuuuuuuuu"):
        task_of(replace(data, tokenizer="u" * 64), source="images")
    other = tokenizer_network(patch=2)
    (tmp_path / "model.safetensors").write_bytes(to_bytes(other))
    (tmp_path / "config.json").write_bytes(model_config(other.config))
    files = str(tmp_path / "model.safetensors"), str(tmp_path / "config.json")
    with pytest.raises(DataError, match=r"grid \(2, 2\), expected \(4, 4\)"):
        task_of(replace(data, tokenizer_files=files), source="images")


def test_a_table_of_images_is_read_at_the_tokenizers_size(data: PriorData, tmp_path: Path) -> None:
    large = image_table(tmp_path / "large.parquet", COUNT, size=16)
    task = task_of(replace(data, images=[large]), source="images", augment=VIEW)
    assert task.batch(0)["images"].shape[-2:] == (8, 8)


@pytest.mark.parametrize(
    ("classes", "count", "rows", "columns"),
    [(1000, 16, 2, 8), (3, 16, 6, 3), (3, 2, 1, 2), (0, 16, 2, 8), (1, 4, 4, 1)],
)
def test_each_column_is_a_class(classes: int, count: int, rows: int, columns: int) -> None:
    labels = preview_labels(classes, count)
    assert labels.shape == (rows, columns)
    assert all(len(column.unique()) == 1 for column in labels.T)
    assert int(labels.min()) == 0
    assert int(labels.max()) <= max(0, classes - 1)
    if classes:
        assert len(labels.unique()) == columns


def test_classes_are_spread_over_all() -> None:
    assert preview_labels(1000, 8)[0].tolist() == [0, 143, 285, 428, 571, 714, 856, 999]


@pytest.mark.parametrize("training", [True, False])
def test_pictures_are_the_samplers_and_leave_the_prior_as_it_was(training: bool) -> None:
    prior = prior_network(grid=(2, 2)).train(training)
    tokenizer = Tokenizer(tokenizer_network())
    png = preview(prior, tokenizer, 6, seed=4)
    assert prior.training is training
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    codes = Sampler(prior, SamplingSettings(seed=4), 6).group(0, labels)
    assert png == grid_png(tokenizer.decode(codes), columns=3)
