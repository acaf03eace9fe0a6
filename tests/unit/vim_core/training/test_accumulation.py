"""Gradient accumulation equals the large batch, in both stages; what does not divide is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.support.tiny import (
    assert_equal_bits,
    prior_config,
    quantize_config,
    runtime,
    state_of,
)
from vim_core.config import CodebookConfig, DiscriminatorConfig, EntropyConfig, OptimConfig, RestartConfig
from vim_core.distributed.runtimes.base import CpuRuntime
from vim_core.errors import ConfigError
from vim_core.tasks.base import Task
from vim_core.tasks.prior import PriorData, PriorTask
from vim_core.tasks.quantizer import QuantizerData, QuantizerTask
from vim_core.training.accumulation import accumulate_gradients

STEPS = 3
RATE = OptimConfig(lr=1e-3)
DISCRIMINATOR = DiscriminatorConfig(channels=4, base=64, r1_every=2, stddev_group=2, optim=RATE)
BOOK = CodebookConfig(codes=16, dim=4, restart=RestartConfig(every=2, threshold=0.5, decay=0.5, until=1))


def quantizer(images: QuantizerData, parts: int, **fields: Any) -> QuantizerTask:
    base: dict[str, Any] = {"batch": 8, "discriminator": DISCRIMINATOR, "codebook": BOOK, "optim": RATE}
    return QuantizerTask(quantize_config(accumulate=parts, **base | fields), images, runtime())


def prior(codes: PriorData, parts: int, **fields: Any) -> PriorTask:
    base: dict[str, Any] = {"batch": 8, "dropout": 0.0, "optim": OptimConfig(lr=1e-3, clip_norm=0.5)}
    return PriorTask(prior_config(accumulate=parts, **base | fields), codes, runtime())


def gradients(task: Task) -> dict[str, Tensor]:
    """What the last step's update was made from."""
    found = {
        f"{name}/{key}": p.grad.clone()
        for name, module in task.modules.items()
        for key, p in module.named_parameters()
        if p.grad is not None
    }
    assert found
    return found


def assert_same_gradients(whole: Task, split: Task) -> None:
    """From equal weights, to 1e-5 relative of each tensor's norm."""
    wanted, found = gradients(whole), gradients(split)
    scale = max(float(g.norm()) for g in wanted.values())
    for name, gradient in wanted.items():
        # Keys' biases have no gradient but rounding: they are measured by the largest.
        limit = 1e-5 * max(float(gradient.norm()), 1e-3 * scale)
        assert float((found[name] - gradient).norm()) < limit, name


def assert_same_training(whole: Task, split: Task) -> None:
    """All figures of all steps to 1e-5 relative, and the gradients of the first."""
    for step in range(STEPS):
        rows = [task.step(step, task.batch(step)) for task in (whole, split)]
        if step == 0:
            assert_same_gradients(whole, split)
        assert rows[0].keys() == rows[1].keys()
        for name, value in rows[0].items():
            torch.testing.assert_close(rows[1][name], value, rtol=1e-5, atol=1e-7, msg=name)


def test_prior_equals_the_large_batch(codes: PriorData) -> None:
    assert_same_training(prior(codes, 1), prior(codes, 8))


def test_quantizer_equals_the_large_batch(images: QuantizerData) -> None:
    """Discriminator with groups of two, R1 every other step, restarts of every other step, average."""
    whole, split = quantizer(images, 1), quantizer(images, 4)
    assert_same_training(whole, split)
    assert torch.equal(whole.model.codebook.usage, split.model.codebook.usage)
    torch.testing.assert_close(whole.model.codebook.weight, split.model.codebook.weight, rtol=1e-5, atol=1e-6)


def test_restarts_draw_from_the_whole_batch(images: QuantizerData, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Tensor] = []
    task = quantizer(images, 4)
    own = task.model.codebook.restart

    def spied(latents: Tensor, *others: Any) -> Tensor:
        seen.append(latents)
        return own(latents, *others)

    monkeypatch.setattr(task.model.codebook, "restart", spied)
    for step in range(2):
        task.step(step, task.batch(step))
    assert [len(latents) for latents in seen] == [8 * 4]


def test_groups_that_do_not_fit_a_microbatch_are_refused(images: QuantizerData) -> None:
    task = quantizer(images, 4, discriminator=DiscriminatorConfig(channels=4, base=64, stddev_group=4))
    with pytest.raises(ConfigError, match="stddev_group=4: does not divide a worker's batch of 2"):
        task.step(0, task.batch(0))


def test_dropout_differs_between_microbatches_but_not_between_runs(codes: PriorData) -> None:
    runs = [prior(codes, 2, dropout=0.3) for _ in range(2)]
    for task in runs:
        task.runtime.seed_step(0, 0)
        row = {name: value[:1].expand(8, *value.shape[1:]) for name, value in task.batch(0).items()}
        figures = task.step(0, row)
    assert_equal_bits(state_of(runs[0]), state_of(runs[1]))
    single = prior(codes, 1, dropout=0.3)
    single.runtime.seed_step(0, 0)
    assert float(single.step(0, row)["loss"]) != float(figures["loss"])


def test_a_broken_microbatch_skips_the_whole_update(images: QuantizerData) -> None:
    task = quantizer(images, 4, ema=0.0)
    task.step(0, task.batch(0))
    before = {name: value.clone() for name, value in state_of(task).items()}
    batch = task.batch(2)
    batch["images"][5] = torch.nan
    figures = task.step(2, batch)
    assert float(figures["skipped"]) == float(figures["discriminator_skipped"]) == 1
    after = state_of(task)
    assert all(torch.equal(before[name], after[name]) for name in before if "usage" not in name)


def two_terms(weight: Tensor, x: Tensor) -> tuple[dict[str, Tensor], int]:
    return {"a": (weight * x).square().mean(), "b": (weight * x).mean()}, len(x)


def test_one_part_is_the_plain_backward_pass() -> None:
    x = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    plain, split = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))
    loss, _ = two_terms(plain, x)
    (loss["a"] + loss["b"]).backward()
    network = nn.ParameterList([split])
    terms, results = accumulate_gradients(lambda part: two_terms(split, part), [x], 1, runtime(), network)
    assert torch.equal(plain.grad, split.grad)  # type: ignore[arg-type]
    assert torch.equal(terms["a"], loss["a"].detach())
    assert not terms["a"].requires_grad
    assert results == [6]


def test_workers_and_microbatches_must_divide_the_batch(images: QuantizerData, codes: PriorData) -> None:
    two = CpuRuntime("fp32", 1, 0, 2)
    match = "accumulate=8: with run.workers=2 it makes 16 parts, which do not divide {}.batch=8"
    with pytest.raises(ConfigError, match=match.format("prior")):
        PriorTask(prior_config(batch=8, accumulate=8), codes, two)
    with pytest.raises(ConfigError, match=match.format("quantize")):
        QuantizerTask(quantize_config(batch=8, accumulate=8), images, two)


def test_the_entropy_of_a_whole_batch_cannot_be_split(images: QuantizerData) -> None:
    book = CodebookConfig(codes=16, dim=4, entropy=EntropyConfig(weight=0.1))
    with pytest.raises(
        ConfigError, match=r"quantize\.accumulate=2: the entropy term \(codebook\.entropy\.weight=0\.1\)"
    ):
        quantizer(images, 2, codebook=book)
