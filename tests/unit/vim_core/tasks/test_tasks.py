"""Training steps of the tasks: what a step touches, what a broken one leaves alone; construction, final figures."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests.support.tiny import (
    STACK,
    assert_equal_bits,
    classify_config,
    code_table,
    pixels,
    prior_config,
    quantizer,
    runtime,
    stepped,
    tasks_on,
)
from vim_core.config import AugmentConfig, DiscriminatorConfig, LossConfig
from vim_core.data.images import decode
from vim_core.distributed.runtimes.base import CpuRuntime
from vim_core.metrics.codebook import unigram_bits
from vim_core.models.classifier import load_classifier
from vim_core.models.prior import ImagePrior, PriorShape, load_prior
from vim_core.models.vit_vqgan import load_tokenizer
from vim_core.tasks.base import Task, build_network, build_replicated
from vim_core.tasks.classifier import ClassifierData, ClassifierTask
from vim_core.tasks.prior import PriorData, PriorTask
from vim_core.tasks.quantizer import QuantizerData

CODES = np.random.default_rng(0).integers(0, 9, size=(13, 4))


@pytest.fixture(scope="module")
def codes(tmp_path_factory: pytest.TempPathFactory) -> PriorData:
    folder = tmp_path_factory.mktemp("codes")
    train = code_table(folder / "train.parquet", CODES, np.arange(13) % 3, 9)
    test = code_table(folder / "test.parquet", CODES[::-1][:5], np.arange(5) % 3, 9, "test")
    return PriorData([train], [test], 3, "t" * 64)


def exported(task: Task, folder: Path) -> tuple[str, str]:
    for name, data in task.export().items():
        (folder / name).write_bytes(data)
    return str(folder / "model.safetensors"), str(folder / "config.json")


def test_what_is_exported_says_nothing_of_how_it_was_run(images: QuantizerData) -> None:
    plain = quantizer(images).export()
    assert quantizer(images, checkpoint_every=3, keep=5, compile="on", best="max psnr_db").export() == plain
    assert quantizer(images, batch=3).export()["config.json"] != plain["config.json"]


def test_loss_is_the_sum_of_its_terms(images: QuantizerData) -> None:
    task = quantizer(images)
    batch = task.batch(0)
    result = task.model(batch["images"])
    fake = task.model.pixels(result.raw)
    figures = task.step(0, batch)
    expected = {"l2": F.mse_loss(fake, batch["images"]), "codebook": result.quantized.codebook_loss}
    expected["commitment"] = 0.25 * result.quantized.commitment_loss
    for name, value in expected.items():
        torch.testing.assert_close(figures[name], value.detach())
    terms = ["codebook", "commitment", "l2", "logit_laplace", "adversarial"]
    torch.testing.assert_close(figures["loss"], torch.stack([figures[name] for name in terms]).sum())


def test_discriminator_and_restarts_come_in_their_steps(images: QuantizerData) -> None:
    figures = stepped(quantizer(images), 4)
    assert ["restarted" in row for row in figures] == [False, True, False, True]
    assert float(figures[1]["restarted"]) > 0
    assert all("discriminator" in row for row in figures)


def test_generator_step_leaves_no_gradient_in_the_discriminator(images: QuantizerData) -> None:
    task = quantizer(images, discriminator=DiscriminatorConfig(channels=4, base=64, r1_gamma=0.0))
    assert task.discriminator is not None
    before = [p.detach().clone() for p in task.discriminator.parameters()]
    task._generator_step(5, task.batch(0)["images"])
    assert all(p.grad is None for p in task.discriminator.parameters())
    assert all(torch.equal(a, b) for a, b in zip(before, task.discriminator.parameters(), strict=True))


def test_without_adversarial_term_there_is_no_discriminator(images: QuantizerData) -> None:
    task = quantizer(images, loss=LossConfig(perceptual=0.0, adversarial=0.0))
    assert task.modules.keys() == {"model", "window", "ema"}
    assert "discriminator" not in task.step(0, task.batch(0))


def test_final_psnr_is_that_of_the_exported_tokenizer(images: QuantizerData, tmp_path: Path) -> None:
    task = quantizer(images)
    stepped(task, 3)
    found = task.finish()["test_psnr_db"]
    tokenizer = load_tokenizer(*exported(task, tmp_path))
    originals = torch.from_numpy(pixels(3, 8, 1)).permute(0, 3, 1, 2) / 255
    decoded = tokenizer.decode(tokenizer.encode(originals))
    errors = (decoded - originals).double().square().flatten(1).mean(1)
    assert found == pytest.approx(float((-10 * errors.log10()).mean()), rel=1e-5)
    picture = decode(task.pictures()["reconstructions"])
    assert picture.shape[1] > picture.shape[0]


def test_labels_are_dropped_at_their_rate_keyed_by_the_step(codes: PriorData) -> None:
    config = prior_config(label_dropout=0.25, batch=12)
    task = PriorTask(config, codes, runtime())
    labels = torch.cat([task.batch(step)["labels"] for step in range(100)])
    share = float((labels == task.model.null_class).float().mean())
    assert abs(share - 0.25) < 5 * math.sqrt(0.25 * 0.75 / 1200)
    parts = [PriorTask(config, codes, CpuRuntime("fp32", 1, rank, 3)).batch(7) for rank in range(3)]
    for name, whole in task.batch(7).items():
        assert torch.equal(torch.cat([part[name] for part in parts]), whole)


def test_codes_travel_with_their_labels(codes: PriorData) -> None:
    task = PriorTask(prior_config(label_dropout=0.0, batch=13), codes, runtime())
    batch = task.batch(0)
    rows = [int((row.numpy() == CODES).all(1).argmax()) for row in batch["codes"]]
    assert sorted(rows) == list(range(13))
    assert batch["labels"].tolist() == [row % 3 for row in rows]


def test_the_network_follows_its_settings_and_an_unconditional_one_sees_the_null_class(
    codes: PriorData,
) -> None:
    task = PriorTask(prior_config(conditional=False), codes, runtime())
    assert task.shape.classes == 0
    assert task.shape.null_trained
    assert task.batch(0)["labels"].tolist() == [0] * 4
    assert math.isfinite(float(task.step(0, task.batch(0))["loss"]))
    task = PriorTask(prior_config(variant="modern", embedding_dropout=False), codes, runtime())
    assert (task.shape.variant, task.shape.embedding_dropout, task.model.dropout.rate) == ("modern", False, 0.0)


@torch.no_grad()
def test_final_bits_are_those_of_the_exported_prior(codes: PriorData, tmp_path: Path) -> None:
    task = PriorTask(prior_config(), codes, runtime())
    with torch.enable_grad():
        stepped(task, 3)
    found = task.finish()
    prior = load_prior(*exported(task, tmp_path))
    test = torch.from_numpy(CODES[::-1][:5].copy())
    chosen = prior(test, torch.arange(5) % 3).log_softmax(-1).gather(2, test[:, :, None])
    assert found["nll_bits_per_token"] == pytest.approx(float(-chosen.double().mean() / math.log(2)), rel=1e-5)
    assert found["unigram_bits_per_token"] == pytest.approx(unigram_bits(CODES, test.numpy(), 9))


def test_prior_learns_a_constant(tmp_path: Path) -> None:
    table = code_table(tmp_path / "c.parquet", np.tile([[1, 2, 3, 4]], (8, 1)), np.zeros(8), 9)
    task = PriorTask(prior_config(dropout=0.0, ema=0.0, steps=40), PriorData([table], [table], 1, ""), runtime())
    losses = [float(row["loss"]) for row in stepped(task, 40)]
    assert losses[0] > 1.5
    assert losses[-1] < 0.3


def test_final_accuracy_is_that_of_the_exported_classifier(images: QuantizerData, tmp_path: Path) -> None:
    config = classify_config(augment=AugmentConfig(), dropout=0.0, ema=0.5)
    task = ClassifierTask(config, ClassifierData(images.train, images.test, 3), runtime())
    stepped(task, 6)
    found = task.finish()
    network = load_classifier(*exported(task, tmp_path))
    originals = torch.from_numpy(pixels(3, 8, 1)).permute(0, 3, 1, 2) / 255
    right = network(originals).argmax(1) == torch.arange(3) % 3
    assert found == {"test_accuracy": pytest.approx(float(right.float().mean())), "test_images": 3.0}


def test_classifier_learns_its_training_images(images: QuantizerData) -> None:
    config = classify_config(augment=AugmentConfig(), dropout=0.0, batch=13, steps=40, width=8, ema=0.0)
    task = ClassifierTask(config, ClassifierData(images.train, images.train, 3), runtime())
    stepped(task, 40)
    assert task.finish()["test_accuracy"] > 0.9


@pytest.mark.parametrize("name", ["prior", "classifier"])
def test_a_broken_update_is_skipped_and_named(images: QuantizerData, codes: PriorData, name: str) -> None:
    task = tasks_on(images, codes)[name]()
    with torch.no_grad():
        [*task.modules["model"].parameters()][-1].fill_(torch.nan)
    assert float(task.step(0, task.batch(0))["skipped"]) == 1
    assert task.nonfinite.drain() == {0: ("loss", "gradient")}


def prior() -> ImagePrior:
    return ImagePrior(PriorShape(STACK, [2, 2], 11, 3))


def plain() -> dict[str, torch.Tensor]:
    torch.manual_seed(5)
    return prior().state_dict()


def test_one_worker_has_what_the_constructor_draws() -> None:
    expected = plain()
    torch.manual_seed(5)
    network, ema = build_network(prior, runtime(), 0.9)
    assert_equal_bits(network.state_dict(), expected)
    assert ema is not None
    assert_equal_bits(dict(ema.shadow.state_dict()), expected)
    torch.manual_seed(5)
    assert_equal_bits(build_replicated(prior, runtime()).state_dict(), expected)
    assert build_network(prior, runtime())[1] is None


@torch.no_grad()
def given(network: ImagePrior) -> None:
    network.head.weight.fill_(2.0)


def test_the_average_begins_with_what_was_loaded() -> None:
    torch.manual_seed(5)
    network, ema = build_network(prior, runtime(), 0.9, load=given)
    assert ema is not None
    expected = plain() | {"head.weight": torch.full_like(network.head.weight, 2.0).detach()}
    for found in (network, ema.shadow):
        assert_equal_bits(found.state_dict(), expected)
