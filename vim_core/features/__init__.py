"""Feature networks behind one interface: `statistics`, `score` and `tradeoff` compare images by their features."""

from vim_core.features.base import (
    CLASSIFIER,
    INCEPTION,
    TORCHVISION,
    FeatureExtractor,
    Features,
    FeatureSpec,
    extract_images,
)
from vim_core.features.loading import check_spec, load_extractor

__all__ = [
    "CLASSIFIER",
    "INCEPTION",
    "TORCHVISION",
    "FeatureExtractor",
    "FeatureSpec",
    "Features",
    "check_spec",
    "extract_images",
    "load_extractor",
]
