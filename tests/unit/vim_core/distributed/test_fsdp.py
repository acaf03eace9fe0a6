"""Collectives of a sharded network's step, counted: with microbatches, copies on several nodes, compiled blocks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import torch
import torch.distributed as dist

from tests.support.fake_group import pretended_workers
from tests.support.tiny import prior_config
from vim_core.config import OptimConfig, RunConfig, StackConfig
from vim_core.distributed import fsdp
from vim_core.distributed.runtimes.base import CpuRuntime
from vim_core.errors import ConfigError
from vim_core.tasks.prior import PriorData, PriorTask

WORLD, BLOCKS = 4, 3


@pytest.fixture(autouse=True)
def four_workers() -> Iterator[None]:
    with pretended_workers(WORLD):
        yield


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Collectives by name; reductions of fewer than 64 values (figures, norms) apart."""
    counts: Counter[str] = Counter()

    def spied(name: str, tensor_at: int) -> Any:
        real = getattr(dist, name)

        def call(*args: Any, **options: Any) -> Any:
            tensor = args[tensor_at] if args else options["output_tensor" if "gather" in name else "output"]
            counts[name if tensor.numel() >= 64 else f"small {name}"] += 1
            return real(*args, **options)

        return call

    for name in ("all_reduce", "all_gather_into_tensor", "reduce_scatter_tensor"):
        monkeypatch.setattr(dist, name, spied(name, 0))
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    return counts


def prior(codes: PriorData, shards: int = 0, compiled: bool = False, **fields: Any) -> PriorTask:
    runtime = CpuRuntime("fp32", 1, 0, WORLD)
    runtime.parallel, runtime.shards, runtime.compiled = "fsdp", shards, compiled
    stack = StackConfig(blocks=BLOCKS, heads=2, dim=16, mlp=32)
    settings = prior_config(stack=stack, batch=32, dropout=0.0, **{"ema": 0.0} | fields)
    return PriorTask(settings, codes, runtime)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("parts", [1, 4])
@pytest.mark.parametrize("shards", [0, 2])
@pytest.mark.parametrize("kind", ["adamw", "factored"])
def test_collectives_of_a_step(
    codes: PriorData, counted: Counter[str], compiled: bool, parts: int, shards: int, kind: str
) -> None:
    optim = OptimConfig(kind=kind, update_clip=1.0 if kind == "factored" else 0.0)
    task = prior(codes, shards, compiled, accumulate=parts, optim=optim)
    for step in range(2):
        counted.clear()
        task.step(step, task.batch(step))
        # Each block and the rest are gathered once a step, blocks once more for the backward pass where nothing follows
        # that needs them; gradients are reduced once.
        assert counted.pop("all_gather_into_tensor") == (2 * BLOCKS + 1 if parts == 1 else BLOCKS + 1)
        assert counted.pop("reduce_scatter_tensor") == BLOCKS + 1
        # One bucket of vectors, one flat tensor of column means; gradients between copies, one for each group.
        copies = BLOCKS + 1 if shards else 0
        assert counted.pop("all_reduce") == 1 + (kind == "factored") + copies
        # The gradient's norm and the loss; the sizes of the factored updates.
        assert counted.pop("small all_reduce") == 2 + (kind == "factored")
        assert not counted


def test_shares_of_rows_copies_and_state(codes: PriorData) -> None:
    task = prior(codes, 2, optim=OptimConfig(kind="factored", first_moment="int8"))
    weight: Any = task.model.head.weight
    state = task.optimizer.state[weight]
    rows, width = weight.shape
    assert fsdp.rows_here(weight) == (0, -(-rows // 2))
    assert fsdp.copy_here(weight) == (0, 2)
    assert {name: tuple(fsdp.local(value).shape) for name, value in state.items()} == {
        "step": (),
        "row": (-(-rows // 2),),
        "column": (width,),
        "exp_avg": (-(-rows // 2), width),
        "exp_avg_scale": (-(-rows // 2), 1),
    }
    assert {tuple(state[name].shape) for name in ("row", "exp_avg", "exp_avg_scale")} == {
        (rows,), (rows, width), (rows, 1),
    }  # fmt: skip


def test_copies_that_do_not_come_out_even_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"run\.fsdp=3: does not divide run\.workers=4"):
        fsdp.make_mesh("cpu", WORLD, 3)
    with pytest.raises(ConfigError, match=r"run\.fsdp=3: does not divide run\.workers=4"):
        RunConfig(parallel="fsdp", workers=4, fsdp=3)
    with pytest.raises(ConfigError, match=r"run\.fsdp=1: .* use run\.parallel=data"):
        fsdp.make_mesh("cpu", WORLD, 1)
