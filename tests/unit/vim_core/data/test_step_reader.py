"""The image feed reads each row group once, whatever the workers; reading ahead changes neither items nor errors."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Generator, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from vim_core.config import AugmentConfig
from vim_core.data import counters, image_tables
from vim_core.data.image_loader import ImageLoader
from vim_core.data.images import encode_png
from vim_core.data.step_reader import StepImages, read_ahead
from vim_core.errors import DataError
from vim_core.tasks.base import Batch
from vim_core.training.loop import batches

GROUPS, ROWS, BATCH = 64, 8, 128
COUNT = GROUPS * ROWS - 5
STEPS = 3 * COUNT // BATCH


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """Two files of 64 row groups in all, the last of each shorter; image i is of colour i."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(image_tables, "ROW_GROUP", ROWS)
        uris = []
        for number, part in enumerate(np.array_split(np.arange(COUNT), [COUNT // 2])):
            rows = [
                image_tables.ImageRow(f"{i:04d}", i, encode_png(np.full((2, 2, 3), i % 256, np.uint8)), 2, 2, "")
                for i in part.tolist()
            ]
            uris.append(str(tmp_path_factory.mktemp("table") / f"{number}.parquet"))
            image_tables.write_images(uris[-1], rows)
        yield uris


class Feed:
    """What `batches` needs of a task: images, of which each batch says its rows and its colours."""

    def __init__(self, uris: list[str], rank: int, world: int) -> None:
        self.config, self.runtime = SimpleNamespace(steps=STEPS), SimpleNamespace(pins_memory=False, local_world=10**6)
        self.images = ImageLoader(uris, 2, AugmentConfig(), 0)
        self.share = BATCH, rank, world

    def requests(self, start: int) -> Generator[StepImages, None, None]:
        return self.images.read_steps(range(start, STEPS), *self.share)

    def share_host(self, processes: int) -> list[str]:
        return self.images.share_host(BATCH, self.share[2], processes)

    def prepare(self, request: StepImages) -> Batch:
        pixels = self.images.views(request)
        return {"rows": torch.from_numpy(request.rows), "colours": pixels[:, 0, 0, 0]}


def fed(uris: list[str], rank: int, ranks: int, workers: int, start: int = 0) -> torch.Tensor:
    """Rows [steps, batch / ranks] that a rank gets."""
    task: Any = Feed(uris, rank, ranks)
    with contextlib.closing(batches(task, start, workers)) as feed:
        steps = list(feed)
    rows = torch.stack([batch["rows"] for batch in steps])
    assert torch.equal(rows % 256, torch.stack([batch["colours"] for batch in steps]).long())
    return rows


@pytest.mark.filterwarnings("ignore:This DataLoader will create 8 worker processes")
@pytest.mark.parametrize("ranks", [1, 8, 32])
@pytest.mark.parametrize("workers", [0, 2, pytest.param(8, marks=pytest.mark.slow)])
def test_images_are_read_once_in_an_order_that_knows_no_workers(
    table: list[str], ranks: int, workers: int, tmp_path: Path
) -> None:
    order = ImageLoader(table, 2, AugmentConfig(), 0).order
    # Data workers do not read, so a few of the ranks show what they change.
    chosen = range(ranks) if not workers else sorted({0, ranks // 3, ranks - 1})
    counters.start(tmp_path)
    try:
        for rank in chosen:
            expected = np.stack([order.batch(step, BATCH, rank, ranks)[1] for step in range(STEPS)])
            assert np.array_equal(fed(table, rank, ranks, workers).numpy(), expected)
    finally:
        counters.stop()
    totals = counters.totals(tmp_path)
    assert totals["images_used"] == totals["images_decoded"] == len(chosen) * STEPS * BATCH // ranks
    assert totals["images_used"] <= totals["images_kept"] <= totals["images_read"] <= 1.2 * totals["images_used"]


def test_a_training_that_continues_has_the_same_steps(table: list[str]) -> None:
    assert torch.equal(fed(table, 1, 2, 0, start=3), fed(table, 1, 2, 0)[3:])


def test_what_was_read_is_given_up_as_it_is_used(table: list[str]) -> None:
    loader = ImageLoader(table, 2, AugmentConfig(), 0)
    waiting = []
    for step in range(STEPS):
        loader.read(step, BATCH, 0, 1)
        assert loader._reader is not None
        waiting.append(len(loader._reader._waiting))
    assert max(waiting) <= COUNT - BATCH
    assert loader.table._cache == {}


def test_a_damaged_image_ends_the_training_with_its_reason(tmp_path: Path) -> None:
    uri = str(tmp_path / "t.parquet")
    image_tables.write_images(uri, [image_tables.ImageRow("a", 0, b"nothing", 2, 2, "")])
    for workers in (0, 1):
        with pytest.raises(DataError, match="not an image"):
            fed([uri], 0, 1, workers)


def failing(last: int) -> Iterator[int]:
    yield from range(last)
    raise DataError("the fourth is damaged")


def test_reading_ahead_keeps_items_and_raises_an_error_in_its_place() -> None:
    ahead = read_ahead(failing(3), ahead=2)
    assert [next(ahead), next(ahead), next(ahead)] == [0, 1, 2]
    with pytest.raises(DataError, match="fourth"):
        next(ahead)
    assert list(read_ahead(iter(range(7)), ahead=3)) == list(range(7))


def test_reading_ahead_ends_its_thread_when_closed_and_never_reads_further() -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for item in range(100):
            taken.append(item)
            yield item

    ahead = read_ahead(items(), ahead=3)
    assert taken == []
    assert [next(ahead), next(ahead)] == [0, 1]
    ahead.close()
    assert len(taken) <= 2 + 3
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("image-reader")]
