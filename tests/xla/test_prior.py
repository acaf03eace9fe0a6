"""Stage 2 on XLA: the CPU run's losses, keyed dropout, resuming, bf16; and what a broken step leaves alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.support import tiny
from tests.xla.conftest import DEVICES
from tests.xla.run import module_bytes, on_cpu, stepped, whole_bytes
from vim_core.checkpoint.checkpoints import Checkpoints
from vim_core.config import OptimConfig
from vim_core.distributed import runtimes as seam
from vim_core.distributed.runtimes.base import Runtime
from vim_core.tasks.prior import PriorData, PriorTask
from vim_core.training import loop
from vim_core.training.spool import Spool, parse_rows

pytestmark = pytest.mark.xla
STEPS = 20


FACTORED = OptimConfig(kind="factored", first_moment="int8", lr=1e-3, warmup=2, clip_norm=1.0)


def task(
    codes: PriorData, runtime: Runtime, dropout: float = 0.0, steps: int = STEPS, optim: OptimConfig | None = None
) -> PriorTask:
    optim = optim or OptimConfig(lr=1e-3, warmup=2, clip_norm=1.0)
    config = tiny.prior_config(steps=steps, batch=8, dropout=dropout, optim=optim)
    return PriorTask(config, codes, runtime)


def test_losses_equal_those_of_the_cpu_and_two_steps_compile_all(
    codes: PriorData, xla: Runtime, cpu: Runtime, compiled: Callable[[], int], fallbacks: Callable[[], list[str]]
) -> None:
    mine, plain = task(codes, xla), task(codes, cpu)
    rows, seen = stepped(mine, STEPS, compiled)
    expected, _ = stepped(plain, STEPS)
    assert [r["loss"] for r in rows] == pytest.approx([r["loss"] for r in expected], abs=1e-4)
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert seen[1:] == [seen[1]] * (STEPS - 1)
    assert fallbacks() == []
    average, reference = on_cpu(mine.result), on_cpu(plain.result)
    for name, value in reference.items():
        torch.testing.assert_close(average[name], value, atol=1e-4, rtol=1e-3, msg=name)
    assert mine.finish() == pytest.approx(plain.finish(), abs=1e-4)


def test_dropout_is_keyed_by_the_step_and_compiled_once(
    codes: PriorData, xla: Runtime, compiled: Callable[[], int]
) -> None:
    first, seen = stepped(task(codes, xla, dropout=0.3), 4, compiled)
    again, _ = stepped(task(codes, xla, dropout=0.3), 4)
    without, _ = stepped(task(codes, xla), 1)
    assert first == again
    assert first[0]["loss"] != without[0]["loss"]
    assert seen[1:] == [seen[1]] * 3
    # The same batch under the noise of two steps.
    training = task(codes, xla, dropout=0.3)
    xla.mark_sharding(training.modules, training.optimizers)
    losses = []
    for step in (0, 1, 0):
        xla.seed_step(0, step)
        training.model.train()
        batch = xla.to_device(training.batch(0))
        losses.append(float(training.model(batch["codes"], batch["labels"]).detach().square().mean()))
    assert losses[0] == losses[2] != losses[1]


@pytest.mark.parametrize("optim", [None, FACTORED], ids=["adamw", "factored"])
def test_a_killed_training_ends_with_the_bits_of_a_whole_one(
    codes: PriorData, xla: Runtime, tmp_path: Path, optim: OptimConfig | None
) -> None:
    whole = task(codes, xla, dropout=0.2, steps=6, optim=optim)
    loop.train(whole, Checkpoints(str(tmp_path / "whole"), {}, xla), Spool(tmp_path / "whole.jsonl"))
    spool = Spool(tmp_path / "killed.jsonl")

    def kept() -> Checkpoints:
        return Checkpoints(str(tmp_path / "killed"), {}, xla)

    with pytest.raises(tiny.Killed):
        loop.train(tiny.killed_at(task(codes, xla, dropout=0.2, steps=6, optim=optim), 5), kept(), spool)
    resumed = task(codes, xla, dropout=0.2, steps=6, optim=optim)
    assert loop.train(resumed, kept(), spool) == 4
    tiny.assert_equal_bits(tiny.state_of(resumed), tiny.state_of(whole))
    # Restoring laid the weights out anew: none of them lies whole on every device.
    assert max(module_bytes(resumed.model)) < 0.5 * whole_bytes(resumed.model)
    rows = [
        [row["m"]["loss"] for row in parse_rows(Path(s).read_bytes()) if "m" in row] for s in tmp_path.glob("*.jsonl")
    ]
    assert rows[0] == rows[1]
    assert len(rows[0]) == 6


def test_evaluations_beside_the_training_compile_nothing(
    codes: PriorData, xla: Runtime, tmp_path: Path, compiled: Callable[[], int]
) -> None:
    training = task(codes, xla, steps=6)
    training.config.evaluate_every = 2
    training.config.checkpoint_every = 6
    own, seen = training.step, []

    def watched(number: int, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        seen.append(compiled())
        return own(number, batch)

    training.step = watched  # type: ignore[method-assign,assignment]
    path = tmp_path / "spool.jsonl"
    loop.train(training, Checkpoints(str(tmp_path / "kept"), {}, xla), Spool(path))
    seen.append(compiled())
    assert seen[2:] == [seen[2]] * 5
    rows = {row["step"]: row["m"] for row in Spool(path).rows() if "eval/nll_bits_per_token" in row.get("m", {})}
    assert 5 in rows
    assert rows[5]["eval/nll_bits_per_token"] == pytest.approx(training.finish()["nll_bits_per_token"], abs=1e-4)


def test_a_step_that_is_not_finite_changes_nothing(codes: PriorData, xla: Runtime) -> None:
    training = task(codes, xla)
    stepped(training, 2)
    before = tiny.state_of(training)
    healthy = training.model.norm.weight.detach().cpu().clone()
    with torch.no_grad():
        training.model.norm.weight.copy_(torch.full_like(healthy, torch.inf))
    figures = training.step(2, xla.to_device(training.batch(2)))
    xla.end_step()
    assert float(figures["skipped"]) == 1.0
    with torch.no_grad():
        training.model.norm.weight.copy_(healthy)
    after = tiny.state_of(training)
    odd = [name for name in before if not name.startswith("module/ema") and not torch.equal(before[name], after[name])]
    assert odd == []


def test_bf16_trains_and_keeps_fp32_weights(codes: PriorData) -> None:
    runtime = seam.create("xla", "bf16", threads=1)
    assert runtime.numeric.name == f"xla-cpu-bf16-w{DEVICES}"
    training = task(codes, runtime, steps=4)
    batch = runtime.to_device(training.batch(0))
    with runtime.autocast():
        assert training.model(batch["codes"], batch["labels"]).dtype is torch.bfloat16
    rows, _ = stepped(training, 4)
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert {p.dtype for p in training.model.parameters()} == {torch.float32}
