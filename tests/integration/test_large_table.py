"""A table of 100,000 JPEGs on two workers with two data workers each: memory of every process, flat over the steps."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch import Tensor

from tests.support.tiny import classify_config, image_table
from tests.support.workers import spawn
from vim_core.checkpoint.checkpoints import Checkpoints
from vim_core.config import AugmentConfig
from vim_core.data import counters
from vim_core.data.image_tables import ImageRow, write_sorted
from vim_core.distributed.runtimes.base import CpuRuntime
from vim_core.tasks.classifier import ClassifierData, ClassifierTask
from vim_core.training.loop import train
from vim_core.training.spool import Spool

pytestmark = pytest.mark.slow

IMAGES, SIDE, STEPS, BATCH, WORKERS = 100_000, 128, 50, 256, 2
SHARDS = 4
MIB = 1 << 20


def rows(shard: int) -> Iterator[ImageRow]:
    """A shard's images: few different ones, because what counts is how many are kept."""
    jpegs = []
    for seed in range(16):
        noise = np.random.default_rng(seed).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        stream = BytesIO()
        Image.fromarray(noise).resize((SIDE, SIDE)).save(stream, "JPEG", quality=90)
        jpegs.append(stream.getvalue())
    for number in range(shard * IMAGES // SHARDS, (shard + 1) * IMAGES // SHARDS):
        yield ImageRow(f"image-{number:06d}", number % 3, jpegs[number % 16], SIDE, SIDE, "")


def memory(pid: int) -> int:
    """Bytes of a process; pages that several share count by their share."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


def worker(rank: int, world: int, folder: Path) -> None:
    counters.start(folder / f"counts-{rank}")
    runtime = CpuRuntime("fp32", 1, rank, world)
    augment = AugmentConfig(min_scale=0.35, max_aspect=1.33, flip=0.5)
    config = classify_config(steps=STEPS, batch=BATCH, augment=augment, log_every=10, checkpoint_every=STEPS)
    tables = [str(folder / f"{shard}.parquet") for shard in range(SHARDS)]
    task = ClassifierTask(config, ClassifierData(tables, [str(folder / "test.parquet")], 3), runtime)
    found: dict[int, list[int]] = {}

    def watch(done: int, figures: Mapping[str, Tensor]) -> None:
        if done % 10 == 0:
            children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
            found[done] = [memory(pid) for pid in (os.getpid(), *map(int, children))]

    spool = Spool(folder / "spool.jsonl") if rank == 0 else None
    train(task, Checkpoints(str(folder / "checkpoints"), {}, runtime), spool, WORKERS, on_step=watch)
    (folder / f"memory-{rank}.json").write_text(json.dumps(found))


def test_memory_is_small_and_does_not_grow_with_the_steps(tmp_path: Path) -> None:
    for shard in range(SHARDS):
        write_sorted(str(tmp_path / f"{shard}.parquet"), rows(shard))
    image_table(tmp_path / "test.parquet", 3)
    spawn(worker, 2, tmp_path)
    for rank in range(2):
        used = {int(done): sizes for done, sizes in json.loads((tmp_path / f"memory-{rank}.json").read_text()).items()}
        assert {len(sizes) for done, sizes in used.items() if done < STEPS - 10} == {1 + WORKERS}
        assert max(max(sizes) for sizes in used.values()) < 1.5e9
        for early, late in zip(used[10], used[STEPS - 20], strict=True):
            assert late < early + 64 * MIB, used
        totals = counters.totals(tmp_path / f"counts-{rank}")
        # Data workers prepare some steps more than are made.
        assert STEPS * BATCH / 2 <= totals["images_used"] == totals["images_decoded"]
        # At the start each of 32 lanes opens a window of 256 images, and soon a second one, because the first was cut.
        assert totals["images_read"] <= 2 * 32 * 256
    notes = (tmp_path / "spool.jsonl").read_text()
    assert "decoded images are not kept: " in notes
    assert "4 processes of this host" in notes
