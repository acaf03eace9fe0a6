"""Feature networks behind one interface: `statistics`, `score` and `tradeoff` compare images by their features."""

from vim_core.errors import ConfigError, DataError
from vim_core.features.base import (
    CLASSIFIER,
    INCEPTION,
    TORCHVISION,
    FeatureExtractor,
    Features,
    FeatureSpec,
    extract_images,
)
from vim_core.features.classifiers import ClassifierExtractor, TorchvisionExtractor, check_torchvision
from vim_core.features.inception import PUBLISHED, InceptionExtractor
from vim_core.models.classifier import load_classifier
from vim_core.weights.saving import WeightFile, load_verified

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
KEY = "statistics.weights"


def load_extractor(spec: FeatureSpec) -> FeatureExtractor:
    """The network on its device, ready for inference.

    Raises:
        ConfigError: no weights were named, or there is no such network.
        DataError: the weights are missing, have another hash, or belong to another network.
    """
    if spec.network == CLASSIFIER:
        return ClassifierExtractor(load_classifier(spec.weights, spec.config, spec.device), spec.sha256, spec.device)
    check_spec(spec)
    state, digest = load_verified(_weight_file(spec), spec.weights, KEY)
    try:
        if spec.network == INCEPTION:
            return InceptionExtractor(state, digest, spec.image_size, spec.device)
        name = spec.network.removeprefix(TORCHVISION)
        return TorchvisionExtractor(name, state, digest, spec.image_size, spec.device)
    except RuntimeError as error:
        raise DataError(f"{KEY}={spec.weights!r} does not fit {spec.network}: {error}") from None


def check_spec(spec: FeatureSpec) -> None:
    """Raise `ConfigError` unless there is such a network and the settings name its weight file."""
    if spec.network.startswith(TORCHVISION):
        check_torchvision(spec.network.removeprefix(TORCHVISION), "statistics.network")
    elif spec.network not in (CLASSIFIER, INCEPTION):
        known = f"{CLASSIFIER}, {INCEPTION}, {TORCHVISION}<name>"
        raise ConfigError(f"statistics.network={spec.network!r}: must be one of {known}")
    file = _weight_file(spec)
    if not spec.weights:
        raise ConfigError(f"{KEY} is empty: give the path or URI of {file.name}, the {file.purpose}")


def _weight_file(spec: FeatureSpec) -> WeightFile:
    if spec.network == INCEPTION and not spec.sha256:
        return PUBLISHED
    purpose = "network of FID with other weights" if spec.network == INCEPTION else f"network {spec.network}"
    return WeightFile(f"the file with sha256 {spec.sha256}", spec.sha256, purpose)
