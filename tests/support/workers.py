"""Training functions that tests run in worker processes of their own, connected by gloo."""

from __future__ import annotations

import faulthandler
import gc
import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.multiprocessing.spawn import spawn as start_processes

from components.training.worker import TrainingJob, run_task
from tests.support.tiny import (
    Killed,
    code_table,
    image_table,
    killed_at,
    prior_config,
    quantize_config,
)
from vim_core.checkpoint.checkpoints import Checkpoints
from vim_core.checkpoint.state_dict import flat_state_dict
from vim_core.config import OptimConfig, StackConfig
from vim_core.distributed.runtimes.base import CpuRuntime
from vim_core.losses.likelihood import next_token_loss
from vim_core.tasks.base import Task
from vim_core.tasks.prior import PriorData, PriorTask
from vim_core.tasks.quantizer import QuantizerData, QuantizerTask
from vim_core.training.loop import train
from vim_core.training.spool import Spool, parse_rows

STAGES = ["quantizer", "prior", "factored"]
"""Both stages, and the second as it is at full size: factored int8 optimizer, microbatches, recomputed blocks, which
two workers compile."""
FOUR = [("quantizer", "data"), ("quantizer", "fsdp/2"), ("prior", "data"), ("factored", "fsdp"), ("factored", "fsdp/2")]
"""Trainings of four workers, and how these share each."""
STEPS = 6
SMALL = StackConfig(blocks=2, heads=2, dim=16, mlp=32)


def tables(folder: Path) -> None:
    """The data of both stages."""
    image_table(folder / "train.parquet", 21)
    image_table(folder / "test.parquet", 3, seed=1)
    codes = np.random.default_rng(0).integers(0, 9, size=(21, 4))
    code_table(folder / "codes.parquet", codes, np.arange(21) % 3, 9)


def task(name: str, folder: Path, runtime: CpuRuntime, **fields: Any) -> Task:
    """One of STAGES on a global batch of eight, in fp32 without dropout."""
    optim = OptimConfig(lr=3e-3, warmup=2, clip_norm=0.5)
    shared: dict[str, Any] = {"steps": STEPS, "batch": 8, "optim": optim, "checkpoint_every": 3} | fields
    if name == "factored":
        runtime.compiled = runtime.world == 2
        factored = replace(optim, kind="factored", first_moment="int8", update_clip=0.8, weight_decay=0.1)
        shared |= {"optim": factored, "accumulate": 2, "recompute": True}
    if name == "quantizer":
        images = QuantizerData([str(folder / "train.parquet")], [str(folder / "test.parquet")])
        settings = quantize_config(encoder=SMALL, decoder=SMALL, **shared)
        # Groups of two images, which four workers have.
        settings.discriminator.stddev_group = 2
        return QuantizerTask(settings, images, runtime)
    codes = str(folder / "codes.parquet")
    return PriorTask(prior_config(dropout=0.0, stack=SMALL, **shared), PriorData([codes], [codes], 3, "t"), runtime)


def runtime_of(rank: int = 0, world: int = 1, parallel: str = "data", precision: str = "fp32") -> CpuRuntime:
    """This worker's runtime; `fsdp/2` lets two workers share a copy."""
    runtime = CpuRuntime(precision, 1, rank, world)
    runtime.parallel, _, shards = parallel.partition("/")
    runtime.shards = int(shards or 0)
    return runtime


def run(trained: Task, place: Path, stop: int | None = None) -> Path:
    """Train in `place` to the end, or until killed before step `stop`; leaves `figures.json` and `weights`."""
    runtime = trained.runtime
    checkpoints = Checkpoints(str(place / "checkpoints"), {"of": "test"}, runtime)
    spool = Spool(place / "spool.jsonl") if runtime.rank == 0 else None
    if stop is not None:
        with suppress(Killed):
            train(killed_at(trained, stop), checkpoints, spool)
        return place
    train(trained, checkpoints, spool)
    figures, files = trained.finish(), trained.export()
    if runtime.rank == 0:
        (place / "figures.json").write_text(json.dumps(figures))
        for name in {"model.safetensors", "accuracy.json"} & files.keys():
            (place / name).write_bytes(files[name])
    return place


def curve(place: Path) -> dict[str, list[float]]:
    """Every figure of every step, but those of the machine."""
    rows = [row["m"] for row in parse_rows((place / "spool.jsonl").read_bytes()) if "m" in row]
    names = {name for row in rows for name in row if not name.endswith("per_s") and not name.startswith("system/")}
    return {name: [row.get(name, 0.0) for row in rows] for name in sorted(names)}


def spawn(function: Callable[..., None], world: int, *arguments: Any) -> None:
    """Run `function(rank, world, *arguments)` in so many processes with a process group."""
    # They meet in a file: another process may take a port that was free.
    with tempfile.TemporaryDirectory() as folder:
        start_processes(_worker, args=(world, f"file://{folder}/store", function, arguments), nprocs=world)


def _worker(rank: int, world: int, store: str, function: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    faulthandler.enable()
    dist.init_process_group("gloo", store, rank=rank, world_size=world)
    try:
        function(rank, world, *arguments)
        dist.barrier()
    finally:
        # Sharded networks are cycles that refer to the group: what is left of them goes before it does, and the group's
        # threads before the interpreter.
        gc.collect()
        dist.destroy_process_group()


@contextmanager
def broken_loss(rank: int) -> Iterator[None]:
    """Worker `rank` gets a loss that is not a number."""

    def broken(logits: Tensor, codes: Tensor) -> Tensor:
        return next_token_loss(logits, codes) * (float("nan") if dist.get_rank() == rank else 1.0)

    with mock.patch("vim_core.tasks.prior.next_token_loss", broken):
        yield


def job(rank: int, world: int, training: TrainingJob) -> None:
    """A worker of a component's training, as Ray would start it."""
    run_task(training, rank, world, rank)


def four(rank: int, world: int, folder: Path) -> None:
    """Four workers: each with everything, with a quarter, and two copies of which each has a half."""
    for name, parallel in FOUR:
        place = folder / f"{name}-four-{parallel.replace('/', '')}"
        run(task(name, folder, runtime_of(rank, world, parallel)), place, stop=4)
        # Quarters go on as halves.
        run(task(name, folder, runtime_of(rank, world, parallel.replace("fsdp", "fsdp/2")[:6])), place)


traced = partial(torch.compile, backend="aot_eager")
"""What is traced, and what autograd keeps of it, depends on no backend; this one spares the C++ compiler."""


def everything(rank: int, world: int, folder: Path) -> None:
    """All that the tests look at, in one pair of processes, because starting them takes longest."""
    torch.compile = traced
    for name in STAGES:
        for parallel in ("data", "fsdp"):
            runtime = runtime_of(rank, world, parallel)
            run(task(name, folder, runtime), folder / f"{name}-{parallel}")
            again = folder / f"{name}-{parallel}-resumed"
            run(task(name, folder, runtime), again, stop=4)
            run(task(name, folder, runtime), again)
            run(task(name, folder, runtime), folder / f"{name}-{parallel}-left", stop=4)
            # Left by one worker, or by two under the other split.
            run(task(name, folder, runtime), folder / f"{name}-one-to-{parallel}")
        dist.barrier()
        run(task(name, folder, runtime_of(rank, world, "fsdp")), folder / f"{name}-fsdp-to-data", stop=4)
        run(task(name, folder, runtime_of(rank, world, "data")), folder / f"{name}-fsdp-to-data")
    run(task("prior", folder, runtime_of(rank, world, "fsdp", "bf16")), folder / "prior-fsdp-bf16")
    _shares(rank, world, folder)
    _skipping(rank, world, folder)
    _one_cannot_write(rank, world, folder)


def _shares(rank: int, world: int, folder: Path) -> None:
    """How much of the network and of the optimizer's state this worker keeps."""
    from vim_core.distributed.fsdp import local

    prior = task("prior", folder, runtime_of(rank, world, "fsdp"))
    prior.step(0, prior.batch(0))
    state = flat_state_dict(prior.modules, prior.optimizers)
    here = {name: local(value).numel() for name, value in state.items()}
    record = {"here": here, "shapes": {name: list(value.shape) for name, value in state.items()}}
    (folder / f"shares-{rank}.json").write_text(json.dumps(record))


def _skipping(rank: int, world: int, folder: Path) -> None:
    """A loss that is not a number on one worker changes no weight on any."""
    from vim_core.distributed.fsdp import local

    for parallel in ("data", "fsdp"):
        prior = task("prior", folder, runtime_of(rank, world, parallel), ema=0.0)
        prior.step(0, prior.batch(0))
        before = {
            name: local(value).clone() for name, value in flat_state_dict(prior.modules, prior.optimizers).items()
        }
        with broken_loss(1):
            skipped = float(prior.step(1, prior.batch(1))["skipped"])
        after = flat_state_dict(prior.modules, prior.optimizers)
        same = all(torch.equal(before[name], local(value)) for name, value in after.items())
        (folder / f"skipping-{parallel}-{rank}.json").write_text(json.dumps({"skipped": skipped, "same": same}))


def _one_cannot_write(rank: int, world: int, folder: Path) -> None:
    """Worker 1's disk is full at step 2: what both say of steps 2 and 4."""
    from vim_core.storage import tensor_files

    said: list[str] = []
    runtime = runtime_of(rank, world)
    prior = task("prior", folder, runtime)
    checkpoints = Checkpoints(str(folder / "full"), {}, runtime, note=said.append)
    write = tensor_files.write_tensors

    def full(*_: Any) -> Any:
        raise OSError(28, "No space left on device")

    state = {f"t{i}": torch.full((3,), float(i)) for i in range(4)}
    if rank == 1:
        tensor_files.write_tensors = full  # type: ignore[assignment]
    checkpoints.save(2, state)
    first = checkpoints.wait()
    tensor_files.write_tensors = write
    checkpoints.save(4, state)
    second = checkpoints.wait()
    latest = checkpoints.latest()
    record = {
        "said": said,
        "settled": [first, second],
        "step": latest.step if latest else None,
        "batch": prior.config.batch,
    }
    (folder / f"full-{rank}.json").write_text(json.dumps(record))
