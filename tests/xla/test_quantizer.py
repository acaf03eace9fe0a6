"""Stage 1 on XLA: the CPU run's losses, one compilation a program, no operation left to the CPU, weights split."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from tests.support import tiny
from tests.xla.run import on_cpu, stepped
from vim_core.config import AugmentConfig, CodebookConfig, DiscriminatorConfig, OptimConfig, RestartConfig
from vim_core.distributed.runtimes.base import Runtime
from vim_core.tasks.quantizer import QuantizerData, QuantizerTask

pytestmark = pytest.mark.xla
STEPS = 20
R1, RESTART = 4, 4
"""R1 comes at steps 0, 4, 8 …, restarts at 3, 7, 11 …: three programs, all of which have run twice after step 7."""


def task(images: QuantizerData, runtime: Runtime, restart: int) -> QuantizerTask:
    judge = DiscriminatorConfig(channels=4, base=64, ramp_start=1, ramp_steps=16, r1_every=R1)
    book = CodebookConfig(codes=16, dim=4, restart=RestartConfig(every=restart, threshold=0.5, decay=0.5, until=1))
    config = tiny.quantize_config(
        steps=STEPS,
        batch=8,
        augment=AugmentConfig(),
        codebook=book,
        discriminator=judge,
        optim=OptimConfig(lr=1e-3, warmup=2),
    )
    return QuantizerTask(config, images, runtime)


def test_losses_equal_those_of_the_cpu(
    images: QuantizerData, xla: Runtime, cpu: Runtime, fallbacks: Callable[[], list[str]]
) -> None:
    mine, plain = task(images, xla, 0), task(images, cpu, 0)
    (rows, _), (expected, _) = stepped(mine, STEPS), stepped(plain, STEPS)
    for name in ("loss", "l2", "logit_laplace", "codebook", "commitment", "adversarial", "discriminator"):
        assert [r[name] for r in rows] == pytest.approx([r[name] for r in expected], abs=1e-4), name
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert [r["batch_usage"] for r in rows] == [r["batch_usage"] for r in expected]
    weights, reference = on_cpu(mine.model), on_cpu(plain.model)
    for name, value in reference.items():
        torch.testing.assert_close(weights[name], value, atol=1e-4, rtol=1e-3, msg=name)
    assert fallbacks() == []
    assert mine.finish()["test_psnr_db"] == pytest.approx(plain.finish()["test_psnr_db"], abs=1e-3)


def test_nothing_compiles_after_every_program_has_run_twice(
    images: QuantizerData, xla: Runtime, compiled: Callable[[], int]
) -> None:
    training = task(images, xla, RESTART)
    rows, seen = stepped(training, STEPS, compiled)
    assert ["restarted" in row for row in rows] == [step % RESTART == RESTART - 1 for step in range(STEPS)]
    assert sum(row.get("restarted", 0) for row in rows) > 0
    assert seen[7:] == [seen[7]] * len(seen[7:])
    assert seen[7] > 0
