"""Figures of one copy of the weights on held-out data, as curves show them while a training runs."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from vim_core.data.image_loader import ImageLoader
from vim_core.data.images import center_crop, from_tensor, to_tensor
from vim_core.losses import terms as losses
from vim_core.metrics import codebook
from vim_core.metrics.codebook import IMAGES
from vim_core.metrics.feature_statistics import merge_all
from vim_core.metrics.frechet import frechet_distance
from vim_core.metrics.moments import Moments
from vim_core.metrics.reconstruction import WINDOW, ssim
from vim_core.models.classifier import Classifier
from vim_core.models.prior import ImagePrior
from vim_core.models.vit_vqgan import Tokenizer
from vim_core.training.evaluation import CancelCheck

BATCH = 64


def psnr_db(originals: Tensor, decoded: Tensor) -> Tensor:
    """PSNR in dB of each image [N] for images [N, 3, H, W] in [0, 1]; equal images give 120."""
    return -10 * torch.log10((decoded - originals).square().mean(dim=(1, 2, 3)).clamp_min(1e-12))


class ReconstructionScorer:
    """Scores tokenizers on the same held-out images, which are read anew each time by this object alone.

    Args:
        images: the held-out images.
        limit: how many of them count, from the first; 0 for all.
        classifier: its features give a Fréchet distance between originals and reconstructions; None for none.
    """

    def __init__(self, images: ImageLoader, limit: int, classifier: Classifier | None) -> None:
        self._images = images
        self._count = min(limit or len(images), len(images))
        self._classifier = classifier
        self._originals: Moments | None = None

    def __call__(self, tokenizer: Tokenizer, check: CancelCheck) -> dict[str, float]:
        """`psnr_db`, `ssim` where images are large enough, figures of the codes, and with a classifier of more images
        than it has features `reconstruction_fd_classifier`.

        Figures of the codes are `code_perplexity` and `codebook_usage` as in the paper's Table 4; with less than its
        256 images the latter is another figure and named after their number.
        """
        parts: dict[str, list[Tensor]] = {"psnr_db": [], "ssim": [], "codes": []}
        moments: dict[str, list[Moments]] = {"originals": [], "decoded": []}
        for rows in torch.arange(self._count).split(BATCH):
            check()
            images = self._images.plain(rows.tolist())
            codes = tokenizer.encode(images)
            decoded = tokenizer.decode(codes)
            parts["codes"].append(codes)
            parts["psnr_db"].append(psnr_db(images, decoded))
            if min(images.shape[-2:]) >= WINDOW:
                parts["ssim"].append(ssim(images, decoded))
            if self._distance_is_fair:
                moments["decoded"].append(self._moments(decoded))
                if self._originals is None:
                    moments["originals"].append(self._moments(images))
        figures = {name: float(torch.cat(parts[name]).mean()) for name in ("psnr_db", "ssim") if parts[name]}
        figures |= code_metrics(torch.cat(parts["codes"]).numpy(), tokenizer.vocabulary)
        if self._distance_is_fair:
            self._originals = self._originals or merge_all(moments["originals"])
            distance = frechet_distance(merge_all(moments["decoded"]), self._originals)
            figures["reconstruction_fd_classifier"] = distance
        return figures

    @property
    def _distance_is_fair(self) -> bool:
        return self._classifier is not None and self._count > self._classifier.shape.features

    @torch.no_grad()
    def _moments(self, images: Tensor) -> Moments:
        """Of the features of images [N, 3, S, S] as they would be stored (8 bits) and at the classifier's size."""
        network = self._classifier
        assert network is not None
        stored = from_tensor(images)
        if stored.shape[1] != network.image_size:
            stored = np.stack([center_crop(image, network.image_size) for image in stored])
        device = next(network.parameters()).device
        return Moments.from_batch(network.features(to_tensor(stored).to(device)))


def code_metrics(codes: np.ndarray, vocabulary: int) -> dict[str, float]:
    """Usage and perplexity of codes [N, T], see `Reconstructions`."""
    images = min(IMAGES, len(codes))
    name = "codebook_usage" if images == IMAGES else f"codebook_usage_of_{images}_images"
    perplexity = codebook.perplexity(codebook.histogram(codes, vocabulary))
    return {name: codebook.usage(codes, vocabulary, images), "code_perplexity": perplexity}


@torch.no_grad()
def bits_per_token(
    prior: ImagePrior,
    read: Callable[[np.ndarray], tuple[Tensor, Tensor]],
    count: int,
    check: CancelCheck = lambda: None,
) -> float:
    """Mean negative log2 likelihood a token of the first `count` held-out images; `read` gives codes and labels."""
    device, total, tokens = next(prior.parameters()).device, 0.0, 0
    for rows in np.array_split(np.arange(count), -(-count // BATCH)):
        check()
        codes, labels = (value.to(device) for value in read(rows))
        total += float(losses.next_token_loss(prior(codes, labels), codes)) * codes.numel()
        tokens += codes.numel()
    return losses.bits(total / tokens)
