"""Training images by position: pure, labelled, sliced over ranks."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.support.tiny import VIEW, image_table, pixels
from vim_core.config import AugmentConfig
from vim_core.data.image_loader import ImageLoader

COUNT = 11


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> str:
    return image_table(tmp_path_factory.mktemp("table") / "train.parquet", COUNT)


def loader(table: str, augment: AugmentConfig = VIEW, seed: int = 0) -> ImageLoader:
    return ImageLoader([table], 8, augment, seed)


def test_a_batch_is_a_function_of_its_step(table: str) -> None:
    used = loader(table)
    for step in (9, 0, 4):
        images, labels = used.batch(step, 4, 0, 1)
        again, same = loader(table).batch(step, 4, 0, 1)
        assert torch.equal(images, again)
        assert torch.equal(labels, same)
        assert images.shape == (4, 3, 8, 8)
        assert float(images.min()) >= 0
        assert float(images.max()) <= 1


def test_ranks_slice_one_batch(table: str) -> None:
    images, labels = loader(table).batch(3, 6, 0, 1)
    parts = [loader(table).batch(3, 6, rank, 3) for rank in range(3)]
    assert torch.equal(torch.cat([part for part, _ in parts]), images)
    assert torch.equal(torch.cat([part for _, part in parts]), labels)


def test_labels_belong_to_their_images(table: str) -> None:
    originals = torch.from_numpy(pixels(COUNT, 8)).permute(0, 3, 1, 2) / 255
    images, labels = loader(table, AugmentConfig()).batch(0, COUNT, 0, 1)
    distance = (images[:, None] - originals[None]).abs().amax(dim=(2, 3, 4))
    rows = distance.argmin(1)
    assert distance.min(1).values.max() < 1e-6
    assert sorted(rows.tolist()) == list(range(COUNT))
    assert torch.equal(labels, rows % 3)


def test_the_same_image_looks_different_in_another_epoch_and_under_another_seed(table: str) -> None:
    one, other = (ImageLoader([table], 8, VIEW, seed) for seed in (0, 1))
    key = one.table.keys[5]
    views = [
        images[source.keys(step, COUNT).index(key)].numpy().tobytes()
        for source, step in ((one, 0), (one, 1), (one, 2), (other, 0))
        for images, _ in [source.batch(step, COUNT, 0, 1)]
    ]
    assert len(set(views)) == 4


def test_plain_rows_are_the_images_themselves(table: str) -> None:
    found = loader(table).plain(np.array([4, 1]))
    expected = torch.from_numpy(pixels(COUNT, 8)[[4, 1]]).permute(0, 3, 1, 2) / 255
    torch.testing.assert_close(found, expected)
