"""Two real workers over gloo against one, with every option that looks at the whole batch."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import start_processes

from tests.support.tiny import image_table, quantize_config
from vim_core.config import CodebookConfig, DiscriminatorConfig, EntropyConfig, LeCamConfig, RestartConfig
from vim_core.distributed.runtimes.base import CpuRuntime
from vim_core.tasks.quantizer import QuantizerData, QuantizerTask

pytestmark = pytest.mark.slow

STEPS, BROKEN = 5, 3


def task_of(folder: Path, rank: int, world: int) -> QuantizerTask:
    entropy = EntropyConfig(weight=0.1, temperature=0.3)
    config = quantize_config(
        batch=8,
        codebook=CodebookConfig(
            codes=16, dim=4, gradient="rotation", entropy=entropy, restart=RestartConfig(decay=0.5)
        ),
        discriminator=DiscriminatorConfig(
            channels=8, base=64, r1_every=2, spectral_norm=True, stddev_group=2, lecam=LeCamConfig(weight=0.1)
        ),
    )
    # Adam takes tiny gradients for signs: at a lower rate rounding stays rounding.
    config.optim = dataclasses.replace(config.optim, lr=1e-3)
    data = QuantizerData([str(folder / "train")], [str(folder / "test")])
    return QuantizerTask(config, data, CpuRuntime("fp32", 1, rank, world))


def figures_of(task: QuantizerTask) -> dict[str, Any]:
    """Losses over all workers, the state that follows the whole batch, and what was found broken."""
    rows = []
    for step in range(STEPS):
        batch = task.batch(step)
        if step == BROKEN and task.runtime.rank == task.runtime.world - 1:
            batch["images"][-1] = torch.nan
        found = task.step(step, batch)
        names = ("loss", "discriminator", "batch_perplexity", "skipped", "discriminator_skipped")
        rows.append([float(task.runtime.mean(found[name].clone())) for name in names])
    assert task.lecam is not None
    averages = [float(task.lecam.real), float(task.lecam.fake), *task.model.codebook.usage.tolist()]
    faults = [(step, list(terms)) for step, terms in task.nonfinite.drain().items()]
    return {"rows": rows, "averages": averages, "faults": faults}


def worker(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    found = figures_of(task_of(Path(folder), rank, 2))
    (Path(folder) / f"{rank}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


def test_two_workers_agree_with_one(tmp_path: Path) -> None:
    image_table(tmp_path / "train", 13)
    image_table(tmp_path / "test", 3, seed=1)
    running = start_processes(worker, (str(tmp_path),), nprocs=2, join=False, start_method="spawn")
    alone = json.loads(json.dumps(figures_of(task_of(tmp_path, 0, 1))))
    while not running.join(timeout=60):
        pass
    both = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)]
    assert [row[3:] for row in alone["rows"]] == [[float(step == BROKEN)] * 2 for step in range(STEPS)]
    for found in both:
        for row, expected in zip(found["rows"], alone["rows"], strict=True):
            assert row == pytest.approx(expected, rel=1e-5, nan_ok=True)
        assert found["averages"] == pytest.approx(alone["averages"], rel=1e-5)
        # Broken on one worker, known to both: each names the same terms, so that both halt together.
        assert found["faults"] == alone["faults"] == both[0]["faults"]
        assert [step for step, _ in found["faults"]] == [BROKEN]
