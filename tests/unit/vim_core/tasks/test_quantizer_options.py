"""Stage 1 with each option: it trains, its state resumes bit for bit, and a broken batch leaves everything alone."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.support.tiny import (
    Killed,
    assert_equal_bits,
    killed_at,
    quantizer,
    state_of,
    stepped,
)
from tests.unit.vim_core.models.test_discriminator import reference
from vim_core.checkpoint.checkpoints import Checkpoints
from vim_core.config import CodebookConfig, DiscriminatorConfig, EntropyConfig, LeCamConfig, LossConfig, RestartConfig
from vim_core.distributed.runtimes.base import CpuRuntime
from vim_core.losses.adversarial import adversarial_share
from vim_core.models.codebook import batch_perplexity, entropy_loss
from vim_core.models.discriminator import StyleGANDiscriminator
from vim_core.tasks.quantizer import QuantizerData, QuantizerTask
from vim_core.training.loop import train
from vim_core.training.spool import Spool

RESTART = RestartConfig(every=2, threshold=0.5, decay=0.5, until=1)


def book(**fields: Any) -> CodebookConfig:
    settings: dict[str, Any] = {"codes": 16, "dim": 4, "restart": RESTART}
    return CodebookConfig(**settings | fields)


def discriminator(**fields: Any) -> DiscriminatorConfig:
    settings: dict[str, Any] = {"channels": 8, "base": 64, "ramp_steps": 2, "r1_every": 2}
    return DiscriminatorConfig(**settings | fields)


LECAM = LeCamConfig(weight=0.1, decay=0.9)
OPTIONS: dict[str, dict[str, Any]] = {
    "rotation": {"codebook": book(gradient="rotation")},
    "entropy": {"codebook": book(entropy=EntropyConfig(weight=0.1, temperature=0.1))},
    "l1": {"loss": LossConfig(perceptual=0.0, l1=1.0, logit_laplace=0.0)},
    "spectral": {"discriminator": discriminator(spectral_norm=True)},
    "lecam": {"discriminator": discriminator(lecam=LECAM)},
    "patch": {"discriminator": discriminator(kind="patch", patch_layers=1)},
    "patch_spectral_lecam": {
        "discriminator": discriminator(kind="patch", patch_layers=1, spectral_norm=True, lecam=LECAM)
    },
}


@pytest.mark.parametrize("name", OPTIONS)
def test_two_steps_train_everything_and_differ_from_the_default(images: QuantizerData, name: str) -> None:
    task = quantizer(images, **OPTIONS[name])
    before = {key: value.clone() for key, value in state_of(task).items()}
    figures = stepped(task, 2)
    after = state_of(task)
    assert all(value.isfinite().all() for value in after.values())
    assert all(float(row["skipped"]) == float(row["discriminator_skipped"]) == 0 for row in figures)
    # A unit vector of length one has nowhere to go.
    kept = [key for key in before if torch.equal(after[key], before[key]) and not key.endswith("spectral.left")]
    assert kept == []
    assert figures_of(figures) != figures_of(
        stepped(quantizer(images, **PLAIN.get(name, {"discriminator": discriminator()})), 2)
    )


PLAIN: dict[str, dict[str, Any]] = {
    "rotation": {"codebook": book()},
    "entropy": {"codebook": book()},
    "l1": {"loss": LossConfig(perceptual=0.0, logit_laplace=0.0)},
}
"""The same settings without the option; those of the discriminator have one in common."""


def figures_of(rows: list[dict[str, Tensor]]) -> list[tuple[float, float]]:
    return [(float(row["loss"]), float(row["discriminator"])) for row in rows]


def finished(task: QuantizerTask, folder: Path) -> dict[str, Tensor]:
    train(task, Checkpoints(str(folder / "checkpoints"), {}, task.runtime), Spool(folder / "spool.jsonl"))
    return state_of(task)


@pytest.mark.parametrize(("name", "saved"), [("patch_spectral_lecam", ("spectral", "module/lecam")), ("entropy", ())])
def test_resumed_equals_uninterrupted(images: QuantizerData, name: str, saved: tuple[str, ...], tmp_path: Path) -> None:
    whole = finished(quantizer(images, **OPTIONS[name]), tmp_path / "whole")
    with pytest.raises(Killed):
        finished(killed_at(quantizer(images, **OPTIONS[name]), 3), tmp_path / "killed")  # type: ignore[arg-type]
    torch.manual_seed(3)
    assert_equal_bits(finished(quantizer(images, **OPTIONS[name]), tmp_path / "killed"), whole)
    assert all(any(part in key for key in whole) for part in saved)


BROKEN = ["rotation", "entropy", "spectral", "patch_spectral_lecam"]


@pytest.mark.parametrize(("name", "value"), [*((name, torch.nan) for name in BROKEN), ("default", torch.inf)])
def test_a_broken_batch_moves_neither_weights_nor_buffers(images: QuantizerData, name: str, value: float) -> None:
    task = quantizer(images, **OPTIONS.get(name, {}))
    stepped(task, 3)
    assert task.nonfinite.drain() == {}
    before = {key: kept.clone() for key, kept in state_of(task).items()}
    average = copy.deepcopy(task.ema.shadow.state_dict()) if task.ema else {}
    batch = task.batch(3)
    batch["images"][1] = value
    figures = task.step(3, batch)  # a step of restarts
    assert (float(figures["skipped"]), float(figures["discriminator_skipped"])) == (1, 1)
    after = state_of(task)
    own = [key for key in before if not key.startswith("module/ema") and "spectral" not in key]
    assert_equal_bits({key: after[key] for key in own}, {key: before[key] for key in own})
    # The average goes on towards the unchanged weights.
    assert all(kept.isfinite().all() for kept in after.values())
    assert all(kept.isfinite().all() for kept in average.values())
    ((at, terms),) = task.nonfinite.drain().items()
    assert at == 3
    assert {"l2", "discriminator.discriminator"} <= set(terms)
    assert not {"loss", "gradient"} & set(terms)
    later = task.step(4, task.batch(4))
    assert (float(later["skipped"]), float(later["discriminator_skipped"])) == (0, 0)


def test_only_the_broken_side_is_skipped(images: QuantizerData, monkeypatch: pytest.MonkeyPatch) -> None:
    task = quantizer(images)
    monkeypatch.setattr("vim_core.losses.adversarial.discriminator_loss", lambda real, fake: real.sum() * torch.nan)
    figures = task.step(0, task.batch(0))
    assert (float(figures["skipped"]), float(figures["discriminator_skipped"])) == (0, 1)
    assert task.nonfinite.drain() == {0: ("discriminator.discriminator",)}


def test_perplexity_and_usage_are_those_of_the_batch(images: QuantizerData) -> None:
    task = quantizer(images)
    batch = task.batch(0)
    counts = torch.bincount(task.model(batch["images"]).quantized.codes, minlength=16).float()
    figures = task.step(0, batch)
    assert float(figures["batch_perplexity"]) == pytest.approx(float(batch_perplexity(counts)))
    assert float(figures["batch_usage"]) == pytest.approx(float((counts > 0).float().mean()))


def test_l1_is_the_mean_absolute_difference(images: QuantizerData) -> None:
    task = quantizer(images, loss=LossConfig(perceptual=0.0, l1=0.7))
    batch = task.batch(0)
    fake = task.model.pixels(task.model(batch["images"]).raw)
    expected = 0.7 * (fake - batch["images"]).abs().mean()
    torch.testing.assert_close(task.step(0, batch)["l1"], expected.detach())


def test_entropy_term_weighs_both_entropies(images: QuantizerData) -> None:
    entropy = EntropyConfig(weight=0.2, diversity=1.5, temperature=0.3)
    task = quantizer(images, codebook=book(entropy=entropy))
    batch = task.batch(0)
    latents = F.normalize(task.model.latents(batch["images"]).flatten(0, 1), dim=-1)
    entries = F.normalize(task.model.codebook.weight, dim=-1)
    shares = (-torch.cdist(latents, entries).square() / 0.3).softmax(1)
    mean = shares.mean(0)
    expected = 0.2 * (-(shares * shares.log()).sum(1).mean() + 1.5 * (mean * mean.log()).sum())
    torch.testing.assert_close(task.step(0, batch)["entropy"], expected.detach(), atol=1e-5, rtol=1e-4)


def test_discriminator_step_is_the_papers_formula(images: QuantizerData) -> None:
    lecam = LeCamConfig(weight=0.3)
    task = quantizer(images, discriminator=discriminator(lecam=lecam, r1_gamma=4.0))
    assert isinstance(task.discriminator, StyleGANDiscriminator)
    assert task.lecam is not None
    task.lecam.real.fill_(0.2)
    task.lecam.fake.fill_(-0.1)
    batch = task.batch(0)["images"]
    fake = task.model.pixels(task.model(batch).raw).detach()
    weights = {name: value.detach().double() for name, value in task.discriminator.named_parameters()}
    real = batch.double().requires_grad_()
    logits = [reference(x, weights, len(task.discriminator.blocks), 4) for x in (real, fake.double())]
    adversarial = 0.5 * (F.softplus(-logits[0]).mean() + F.softplus(logits[1]).mean())
    (slope,) = torch.autograd.grad(logits[0].sum(), real)
    r1 = 4.0 / 2 * 2 * slope.square().sum(dim=(1, 2, 3)).mean()  # gamma / 2, times the steps between two penalties
    towards = F.relu(logits[0] + 0.1).square().mean() + F.relu(0.2 - logits[1]).square().mean()
    figures = task._discriminator_step(0, batch, fake)
    assert float(figures["r1"]) == pytest.approx(float(r1), rel=1e-4)
    assert float(figures["lecam"]) == pytest.approx(0.3 * float(towards.detach()), rel=1e-4)
    total = adversarial.detach() + r1 + 0.3 * towards.detach()
    assert float(figures["discriminator"]) == pytest.approx(float(total), rel=1e-4)
    assert float(figures["logit_real"]) == pytest.approx(float(logits[0].detach().mean()), rel=1e-4)


def test_adversarial_gradient_grows_with_the_ramp(images: QuantizerData) -> None:
    settings = discriminator(ramp_start=2, ramp_steps=4)
    task = quantizer(images, discriminator=settings, loss=LossConfig(perceptual=0.0, l2=0.0, logit_laplace=0.0))
    batch = task.batch(0)["images"]

    def gradient(step: int) -> Tensor:
        term = task.generator_pass(step, batch)[0]["adversarial"]
        return torch.autograd.grad(term, next(task.model.decoder_head.parameters()))[0]

    whole = gradient(6)
    assert whole.abs().max() > 0
    for step, share in ((0, 0.0), (2, 0.0), (3, 0.25), (4, 0.5), (9, 1.0)):
        torch.testing.assert_close(gradient(step), share * whole)
    at_once = discriminator(ramp_start=3, ramp_steps=0)
    assert [adversarial_share(at_once, step) for step in (2, 3)] == [0, 1]


def test_spectral_vectors_move_once_a_step(images: QuantizerData) -> None:
    task = quantizer(images, discriminator=discriminator(spectral_norm=True))
    assert task.discriminator is not None
    batch = task.batch(0)["images"]
    before = copy.deepcopy(task.discriminator.state_dict())
    _, passes = task._generator_step(0, batch)
    assert all(torch.equal(value, before[name]) for name, value in task.discriminator.state_dict().items())
    expected = copy.deepcopy(task.discriminator)
    for layer in expected.modules():
        if hasattr(layer, "spectral"):
            layer.spectral.advance(layer.weight)  # type: ignore[operator,union-attr]
    task._discriminator_step(0, batch, passes[0].fake)
    vectors = [name for name in before if "spectral" in name]
    assert vectors
    state = task.discriminator.state_dict()
    assert all(torch.equal(state[name], expected.state_dict()[name]) for name in vectors)


class Pair(CpuRuntime):
    """Two workers played one after the other: what the other one sent is answered by a function."""

    def __init__(self, other: Tensor) -> None:
        super().__init__("fp32", 1)
        self.other = other

    def mean(self, value: Tensor) -> Tensor:
        return (value + self.other) / 2


def test_entropy_of_two_workers_is_that_of_the_whole_batch(images: QuantizerData) -> None:
    task = quantizer(images)
    shares = torch.rand(2, 5).softmax(1).requires_grad_()
    whole = entropy_loss(torch.tensor(0.0), shares.mean(0), 1.0)
    (expected,) = torch.autograd.grad(whole, shares)
    for worker in (0, 1):
        task.runtime = Pair(shares[1 - worker].detach())
        mine = entropy_loss(torch.tensor(0.0), task._global_mean(shares[worker]), 1.0)
        torch.testing.assert_close(mine, whole)
        (found,) = torch.autograd.grad(mine, shares)
        # Gradients are averaged over the workers afterwards: half of each one's.
        torch.testing.assert_close(found[worker] / 2, expected[worker])
