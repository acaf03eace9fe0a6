"""Figures of reconstructions and priors during training against the metrics computed the plain way."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.support.tiny import enlarge, image_table, prior_network, tokenizer_network
from vim_core.config import AugmentConfig
from vim_core.data.image_loader import ImageLoader
from vim_core.data.images import center_crop, from_tensor, to_tensor
from vim_core.metrics import codebook
from vim_core.metrics.frechet import Moments, frechet_distance
from vim_core.metrics.reconstruction import psnr, ssim
from vim_core.models.classifier import Classifier, ClassifierShape
from vim_core.models.vit_vqgan import Tokenizer
from vim_core.training.held_out_metrics import ReconstructionScorer, bits_per_token, code_metrics

COUNT, SIZE = 70, 16


@pytest.fixture(scope="module")
def loader(tmp_path_factory: pytest.TempPathFactory) -> ImageLoader:
    table = image_table(tmp_path_factory.mktemp("images") / "test.parquet", COUNT, SIZE)
    return ImageLoader([table], SIZE, AugmentConfig(), 0)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(tokenizer_network(image_size=SIZE))


def classifier(size: int, features: int = 5) -> Classifier:
    torch.manual_seed(1)
    network = Classifier(ClassifierShape(size, 3, 4, features)).eval()
    enlarge(network)
    return network


@pytest.mark.parametrize("limit", [0, 67])
def test_figures_are_those_of_all_images_at_once(loader: ImageLoader, tokenizer: Tokenizer, limit: int) -> None:
    found = ReconstructionScorer(loader, limit, None)(tokenizer, lambda: None)
    images = loader.plain(range(limit or COUNT))
    codes = tokenizer.encode(images)
    decoded = tokenizer.decode(codes)
    expected = {"psnr_db": float(psnr(images, decoded).mean()), "ssim": float(ssim(images, decoded).mean())}
    expected |= code_metrics(codes.numpy(), tokenizer.vocabulary)
    assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("size", [SIZE, 8])
def test_distance_is_between_stored_images(loader: ImageLoader, tokenizer: Tokenizer, size: int) -> None:
    network = classifier(size)
    scoring = ReconstructionScorer(loader, 0, network)
    images = loader.plain(range(COUNT))
    sides = []
    for side in (images, tokenizer.decode(tokenizer.encode(images))):
        stored = np.stack([center_crop(image, size) for image in from_tensor(side)])
        with torch.no_grad():
            sides.append(Moments.from_batch(network.features(to_tensor(stored))))
    expected = pytest.approx(frechet_distance(*sides), rel=1e-4)
    assert scoring(tokenizer, lambda: None)["reconstruction_fd_classifier"] == expected
    assert scoring(tokenizer, lambda: None)["reconstruction_fd_classifier"] == expected, "originals are kept"


def test_too_few_images_for_a_distance_give_none(loader: ImageLoader, tokenizer: Tokenizer) -> None:
    assert "reconstruction_fd_classifier" not in ReconstructionScorer(loader, 0, classifier(SIZE, 80))(
        tokenizer, lambda: None
    )


def test_usage_is_the_papers_from_256_images_on() -> None:
    codes = (np.random.default_rng(0).random((600, 3)) ** 2 * 40).astype(np.int64)
    many = code_metrics(codes, 40)
    assert many["codebook_usage"] == np.mean(codebook.usages(codes, 40, 256))
    assert many["code_perplexity"] == codebook.perplexity(np.bincount(codes.ravel(), minlength=40))
    few = code_metrics(codes[:100], 40)
    assert few.keys() == {"codebook_usage_of_100_images", "code_perplexity"}
    assert few["codebook_usage_of_100_images"] == np.unique(codes[:100]).size / 40


def test_bits_are_the_mean_over_all_tokens() -> None:
    prior = prior_network()
    codes, labels = torch.randint(11, (COUNT, 6)), torch.arange(COUNT) % 3
    calls = []

    def read(rows: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        calls.append(len(rows))
        return codes[rows], labels[rows]

    found = bits_per_token(prior, read, 66)
    with torch.no_grad():
        chosen = prior(codes[:66], labels[:66]).double().log_softmax(-1).gather(2, codes[:66, :, None])
    assert found == pytest.approx(float(-chosen.mean() / np.log(2)), rel=1e-6)
    assert sum(calls) == 66
    assert len(calls) == 2


def test_an_abandoned_evaluation_ends_between_batches(loader: ImageLoader, tokenizer: Tokenizer) -> None:
    def over() -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        ReconstructionScorer(loader, 0, None)(tokenizer, over)
    with pytest.raises(InterruptedError):
        bits_per_token(prior_network(), lambda rows: pytest.fail("no batch is read any more"), 5, over)
