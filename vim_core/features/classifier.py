"""The pipeline's own classifier as a feature network."""

from __future__ import annotations

import torch
from torch import Tensor

from vim_core.data.images import Pixels, square, to_tensor
from vim_core.features.base import CLASSIFIER, Features
from vim_core.models.classifier import Classifier


class ClassifierExtractor:
    """Penultimate features and logits of images brought to the classifier's size."""

    name = CLASSIFIER
    published = False
    spatial = 0

    def __init__(self, network: Classifier, digest: str, device: str = "cpu") -> None:
        self.network, self.digest, self.device = network, digest, device
        self.size = network.image_size
        self.dim, self.classes = network.shape.features, network.shape.classes
        self.preprocessing = (
            f"short side to {self.size} pixels (bicubic, antialiased), centre crop; exact sizes are left as they are"
        )

    def prepare(self, image: Pixels) -> Tensor:
        """The centre square [3, size, size] in [0, 1]."""
        return to_tensor(square(image, self.size))

    def extract(self, batch: Tensor) -> Features:
        """Features [N, D] and logits [N, C]."""
        with torch.inference_mode():
            features = self.network.features(batch.to(self.device))
            logits: Tensor = self.network.head(features)
        return Features(features.float().cpu(), logits.float().cpu())
