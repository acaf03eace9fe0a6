"""Metrics of one copy of the weights on held-out data, for curves during a training."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from vim_core.data.image_loader import ImageLoader
from vim_core.data.images import center_crop, from_tensor, to_tensor
from vim_core.losses.likelihood import next_token_loss
from vim_core.metrics import codebook
from vim_core.metrics.codebook import IMAGES
from vim_core.metrics.feature_statistics import merge_all
from vim_core.metrics.frechet import Moments, frechet_distance
from vim_core.metrics.reconstruction import WINDOW, ssim
from vim_core.models.classifier import Classifier
from vim_core.models.prior import ImagePrior
from vim_core.models.vit_vqgan import Tokenizer
from vim_core.training.evaluation import CancelCheck

BATCH = 64


def psnr_db(originals: Tensor, decoded: Tensor) -> Tensor:
    """PSNR in dB of each image, [N], from images [N, 3, H, W] in [0, 1]; equal images give 120."""
    return -10 * torch.log10((decoded - originals).square().mean(dim=(1, 2, 3)).clamp_min(1e-12))


class ReconstructionScorer:
    """Scores tokenizers on the same held-out images, which are read again each time.

    Args:
        images: the held-out images; a loader that no other thread uses.
        limit: number of images used, from the first; 0 for all.
        classifier: its features give a Fréchet distance between originals and reconstructions; None for no distance.
    """

    def __init__(self, images: ImageLoader, limit: int, classifier: Classifier | None) -> None:
        self._images = images
        self._count = min(limit or len(images), len(images))
        self._classifier = classifier
        self._has_distance = classifier is not None and self._count > classifier.shape.features
        self._originals: Moments | None = None

    def __call__(self, tokenizer: Tokenizer, check: CancelCheck) -> dict[str, float]:
        """`psnr_db`, `ssim`, `code_metrics` and `reconstruction_fd_classifier` of a tokenizer.

        `ssim` needs images of at least its window, the distance a classifier with fewer features than there are images.
        `check` is called before every batch.
        """
        parts: dict[str, list[Tensor]] = {"psnr_db": [], "ssim": [], "codes": []}
        moments: dict[str, list[Moments]] = {"originals": [], "decoded": []}
        for rows in torch.arange(self._count).split(BATCH):
            check()
            images = self._images.plain(rows.tolist())  # [n, 3, S, S] in [0, 1]
            codes = tokenizer.encode(images)  # [n, T]
            decoded = tokenizer.decode(codes)  # [n, 3, S, S]
            parts["codes"].append(codes)
            parts["psnr_db"].append(psnr_db(images, decoded))
            if min(images.shape[-2:]) >= WINDOW:
                parts["ssim"].append(ssim(images, decoded))
            if self._has_distance:
                moments["decoded"].append(self._moments(decoded))
                if self._originals is None:
                    moments["originals"].append(self._moments(images))
        figures = {name: float(torch.cat(parts[name]).mean()) for name in ("psnr_db", "ssim") if parts[name]}
        figures |= code_metrics(torch.cat(parts["codes"]).numpy(), tokenizer.vocabulary)
        if self._has_distance:
            self._originals = self._originals or merge_all(moments["originals"])
            distance = frechet_distance(merge_all(moments["decoded"]), self._originals)
            figures["reconstruction_fd_classifier"] = distance
        return figures

    @torch.no_grad()
    def _moments(self, images: Tensor) -> Moments:
        """Moments of the features of images [N, 3, S, S], rounded to 8 bits and resized to the classifier's input."""
        network = self._classifier
        assert network is not None
        stored = from_tensor(images)
        if stored.shape[1] != network.image_size:
            stored = np.stack([center_crop(image, network.image_size) for image in stored])
        device = next(network.parameters()).device
        return Moments.from_batch(network.features(to_tensor(stored).to(device)))


def code_metrics(codes: np.ndarray, vocabulary: int) -> dict[str, float]:
    """`code_perplexity` and `codebook_usage` of codes [N, T] as in the paper's Table 4.

    With fewer than its 256 images the usage is a different figure, so its name says the number of images.
    """
    images = min(IMAGES, len(codes))
    name = "codebook_usage" if images == IMAGES else f"codebook_usage_of_{images}_images"
    perplexity = codebook.perplexity(codebook.histogram(codes, vocabulary))
    return {name: float(np.mean(codebook.usages(codes, vocabulary, images))), "code_perplexity": perplexity}


@torch.no_grad()
def bits_per_token(
    prior: ImagePrior,
    read: Callable[[np.ndarray], tuple[Tensor, Tensor]],
    count: int,
    check: CancelCheck = lambda: None,
) -> float:
    """Mean negative log2 likelihood of a token over the first `count` held-out images.

    `read` maps row numbers [n] to codes [n, T] and labels [n]; `check` is called before every batch.
    """
    device, total, tokens = next(prior.parameters()).device, 0.0, 0
    for rows in np.array_split(np.arange(count), -(-count // BATCH)):
        check()
        codes, labels = (value.to(device) for value in read(rows))
        total += float(next_token_loss(prior(codes, labels), codes)) * codes.numel()
        tokens += codes.numel()
    return total / tokens / math.log(2)
