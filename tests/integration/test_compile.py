"""torch.compile in training: the same losses as eager, noise by the step, and nothing compiles after two steps."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.support.tiny import (
    assert_equal_bits,
    code_data,
    image_data,
    prior_config,
    state_of,
    tasks_on,
)
from vim_core.config import DiscriminatorConfig, StackConfig
from vim_core.distributed.runtimes.base import CpuRuntime
from vim_core.tasks.base import Task
from vim_core.tasks.prior import PriorData, PriorTask


@pytest.fixture(autouse=True)
def nothing_compiled_before() -> Iterator[None]:
    from torch._dynamo.utils import counters

    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


@pytest.fixture(scope="module")
def codes(tmp_path_factory: pytest.TempPathFactory) -> PriorData:
    return code_data(tmp_path_factory.mktemp("codes"), 16)


def task_of(codes: PriorData, compiled: bool, **fields: Any) -> PriorTask:
    runtime = CpuRuntime("fp32", threads=1)
    runtime.compiled = compiled
    stack = StackConfig(blocks=1, heads=2, dim=16, mlp=32)
    return PriorTask(prior_config(batch=8, stack=stack, ema=0.0, **fields), codes, runtime)


def counts() -> dict[str, int]:
    """What torch.compile has done in this test: frames looked at, graphs made of them, places it had to leave."""
    from torch._dynamo.utils import counters

    frames, graphs = counters["frames"]["total"], counters["stats"]["unique_graphs"]
    return {"frames": frames, "graphs": graphs, "breaks": len(counters["graph_break"])}


def stepped(task: Task, first: int, last: int) -> list[float]:
    losses = []
    for step in range(first, last):
        task.runtime.seed_step(task.config.seed, step)
        losses.append(float(task.step(step, task.batch(step))["loss"]))
    return losses


@pytest.mark.slow
def test_compiled_training_is_eager_training_and_compiles_once(codes: PriorData) -> None:
    eager, compiled = (task_of(codes, on, dropout=0.0, accumulate=2) for on in (False, True))
    expected = stepped(eager, 0, 6)
    found = stepped(compiled, 0, 2)
    after_two = counts()
    assert after_two == {"frames": 1, "graphs": 1, "breaks": 0}
    found += stepped(compiled, 2, 5)
    compiled.finish()
    compiled.pictures()
    found += stepped(compiled, 5, 6)
    assert counts() == after_two
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    assert state_of(compiled).keys() == state_of(eager).keys()


@pytest.mark.slow
def test_compiled_dropout_is_keyed_by_the_step(codes: PriorData) -> None:
    runs: list[dict[str, Tensor]] = []
    losses = []
    task = task_of(codes, True, dropout=0.5)
    start = {name: value.clone() for name, value in task.model.state_dict().items()}
    for _ in range(2):
        task.model.load_state_dict(start)
        losses.append(stepped(task, 0, 1))
        runs.append({name: p.grad.clone() for name, p in task.model.named_parameters() if p.grad is not None})
    assert_equal_bits(*runs)
    task.model.load_state_dict(start)
    task.runtime.seed_step(task.config.seed, 1)
    assert float(task.step(0, task.batch(0))["loss"]) != losses[0][0]
    assert counts()["breaks"] == 0


@pytest.mark.parametrize("name", ["prior", "quantizer", "classifier"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_every_network_is_one_graph_for_the_whole_training(
    codes: PriorData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, precision: str
) -> None:
    """What is traced depends on no backend; the eager one spares the C++ compiler."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))

    def compiled(precision: str) -> CpuRuntime:
        runtime = CpuRuntime(precision, threads=1)
        runtime.compiled = True
        return runtime

    task = tasks_on(image_data(tmp_path, train=12), codes, compiled)[name](precision=precision)
    # The discriminator is one graph where it is frozen and one where it learns; R1 goes past both.
    graphs = 3 if name == "quantizer" else 1
    stepped(task, 0, 2)
    assert counts() == {"frames": graphs, "graphs": graphs, "breaks": 0}
    task.pictures()
    stepped(task, 2, 6)
    task.finish()
    assert counts() == {"frames": graphs, "graphs": graphs, "breaks": 0}


@pytest.mark.slow
def test_the_compiled_losses_of_the_tokenizer_give_the_eager_gradients(
    codes: PriorData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Traced and differentiated as on a GPU, its kernels left eager: the same bits, also with R1 in between."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    states = []
    for on in (False, True):
        runtime = CpuRuntime("fp32", threads=1)
        runtime.compiled = on
        settings = DiscriminatorConfig(channels=8, base=64, stddev_group=2, r1_every=2)
        task = tasks_on(image_data(tmp_path / str(on), train=12), codes, lambda precision: runtime)["quantizer"](  # noqa: B023
            discriminator=settings
        )
        stepped(task, 0, 3)
        states.append(state_of(task))
    for name, value in states[0].items():
        torch.testing.assert_close(states[1][name], value, rtol=1e-4, atol=1e-6, msg=name)
