"""Two workers' training step against torch's own data parallelism: what the exchange of gradients costs."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import spawn
from torch.nn.parallel import DistributedDataParallel

from tests.benchmarks.harness import Bench, Row
from tests.benchmarks.shapes import VIM_BASE, Stage2, toy_stage2
from tests.benchmarks.stage2 import batch_of, ours
from vim_core.config import OptimConfig
from vim_core.distributed import runtimes
from vim_core.losses.likelihood import next_token_loss
from vim_core.models.prior import ImagePrior
from vim_core.optim.optimizers import make_optimizer

WORKERS = 2
PEER = "torch DistributedDataParallel"


def stage2_workers(bench: Bench) -> list[Row]:
    """VIM-Base's step of two GPUs over NCCL; at toy size two processes over gloo."""
    name, unit = "prior step of two workers", "tokens/s"
    shape = toy_stage2() if bench.toy else Stage2("VIM-Base", VIM_BASE, 64)
    if bench.gpu and torch.cuda.device_count() < WORKERS:
        return [bench.absent(name, unit, PEER, shape.words(), "needs two GPUs: not measured")]
    spawn(_measure, (bench.folder, "cuda" if bench.gpu else "cpu", shape, bench.repeats), WORKERS)
    seconds = json.loads((bench.folder / "seconds.json").read_text(encoding="utf-8"))
    tokens = shape.batch * shape.side**2
    return [bench.faster(name, unit, (tokens / seconds["ours"], tokens / seconds["theirs"]), PEER, shape.words())]


def _measure(rank: int, folder: Path, device: str, shape: Stage2, repeats: int) -> None:
    """One worker: both sides in turns; rank 0 leaves its seconds in `folder`."""
    store = f"file://{folder / 'store'}"
    dist.init_process_group("nccl" if device == "cuda" else "gloo", store, rank=rank, world_size=WORKERS)
    runtime = runtimes.create(device, "bf16", 1, rank, WORKERS, rank)
    own = folder / str(rank)
    own.mkdir()
    bench = Bench(runtime, shape == toy_stage2(), repeats, own)
    task = ours(bench, shape)
    batch = {key: rows[rank::WORKERS] for key, rows in batch_of(bench, shape).items()}
    torch.manual_seed(0)
    model = ImagePrior(shape.shape()).to(runtime.device)
    wrapped = DistributedDataParallel(model, gradient_as_bucket_view=True)
    optimizer = make_optimizer(model, OptimConfig())

    def theirs() -> None:
        optimizer.zero_grad()
        with runtime.autocast():
            loss = next_token_loss(wrapped(batch["codes"], batch["labels"]), batch["codes"])
        loss.backward()
        optimizer.step()

    seconds = bench.medians({"ours": partial(task.step, 1, batch), "theirs": theirs}, warmup=3)
    if rank == 0:
        (folder / "seconds.json").write_text(json.dumps(seconds), encoding="utf-8")
    dist.barrier()
    dist.destroy_process_group()
