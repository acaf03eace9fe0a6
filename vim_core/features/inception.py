"""The feature network of FID and Inception Score with its preprocessing."""

from __future__ import annotations

import torch
from torch import Tensor

from vim_core.data.images import Pixels, square
from vim_core.features.base import INCEPTION, Features, crop_description
from vim_core.features.inception_v3 import CLASSES, FEATURES, PLACES, SIZE, SPATIAL, Inception
from vim_core.metrics.resize import tf1_bilinear
from vim_core.weights.published import WeightFile

PUBLISHED = WeightFile(
    "weights-inception-2015-12-05-6726825d.pth",
    "6726825d",
    "network of FID (torch-fidelity's conversion of TensorFlow's Inception of 2015-12-05)",
)


class InceptionExtractor:
    """pool_3 features [N, 2048], logits without the last bias [N, 1008] and sFID's features [N, 2023]."""

    name = INCEPTION
    dim, classes, size = FEATURES, CLASSES, SIZE
    spatial = SPATIAL * PLACES * PLACES

    def __init__(self, state: dict[str, Tensor], digest: str, image_size: int = 0, device: str = "cpu") -> None:
        """Raises `RuntimeError` for weights of another network."""
        network = Inception()
        counters = {name: value for name, value in network.state_dict().items() if name.endswith("batches_tracked")}
        network.load_state_dict(counters | state, strict=True)
        self.network = network.to(device).eval()
        self.digest, self.image_size, self.device = digest, image_size, device
        self.published = digest.startswith(PUBLISHED.sha256)
        protocol = f"TensorFlow 1 bilinear to {SIZE} x {SIZE}, no antialias; (x - 128) / 128"
        self.preprocessing = crop_description(image_size) + protocol

    def prepare(self, image: Pixels) -> Tensor:
        """The image at 299 x 299 by TensorFlow 1's resize, in [-1, 1]; a square of `image_size` before, if set."""
        if self.image_size:
            image = square(image, self.image_size)
        pixels = torch.from_numpy(image.copy()).permute(2, 0, 1).float()
        return (tf1_bilinear(pixels, SIZE) - 128) / 128

    def extract(self, batch: Tensor) -> Features:
        """Features [N, 2048], logits [N, 1008] and spatial features [N, 2023] in float32.

        TF32 would move them by a thousandth.
        """
        inputs = batch.to(self.device)
        with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            taken = self.network(inputs)
        return Features(taken["2048"].cpu(), taken["logits_unbiased"].cpu(), taken["spatial"].cpu())
