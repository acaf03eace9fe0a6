"""Feature networks of `statistics` and `score`: specification, one instance per process, names of its figures."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from components.contract.api import Artifact, Context, Inputs
from vim_core.config import StatisticsConfig

if TYPE_CHECKING:
    from vim_core.features import FeatureExtractor, FeatureSpec

DEVICE = "cpu"
"""Device of the classifier, also in `score`: both sides of a distance use the same arithmetic."""


def configured_spec(config: StatisticsConfig, inputs: Inputs, ctx: Context) -> FeatureSpec:
    """The feature network that the settings of `statistics` name."""
    from components.engines.devices import beam_device
    from vim_core.features import CLASSIFIER, FeatureSpec

    if config.network == CLASSIFIER:
        return classifier_spec(inputs["classifier"])
    return FeatureSpec(
        config.network,
        config.weights,
        sha256=config.weights_sha256,
        image_size=config.image_size,
        device=beam_device(ctx.run),
    )


def reference_spec(inputs: Inputs, ctx: Context) -> FeatureSpec:
    """The feature network that the input `statistics` was made with."""
    from components.engines.devices import beam_device
    from vim_core.features import CLASSIFIER, FeatureSpec

    network = inputs["statistics"].properties["network"]
    if network["kind"] == CLASSIFIER:
        return classifier_spec(inputs["classifier"])
    size = int(inputs["statistics"].manifest.config["image_size"])
    weights, device = ctx.pipeline.statistics.weights, beam_device(ctx.run)
    return FeatureSpec(network["kind"], weights, sha256=network["digest"], image_size=size, device=device)


def classifier_spec(classifier: Artifact) -> FeatureSpec:
    """The classifier of the pipeline as a feature network."""
    from vim_core.features import CLASSIFIER, FeatureSpec

    weights, config = classifier.uri("model.safetensors"), classifier.uri("config.json")
    return FeatureSpec(CLASSIFIER, weights, config, classifier.digest, device=DEVICE)


@functools.lru_cache(maxsize=1)
def cached_extractor(spec: FeatureSpec) -> FeatureExtractor:
    """The network, loaded once per process for all its shards."""
    from vim_core.features import load_extractor

    return load_extractor(spec)


class FigureNames:
    """Names of the figures of a feature network, by the property `network` of a statistics artifact (contract 8).

    FID and IS stand for the published Inception alone.
    """

    def __init__(self, network: Mapping[str, Any]) -> None:
        name = str(network["kind"]).rsplit(":", 1)[-1]
        published = bool(network.get("published"))
        self.distance = "fid" if published else f"fd_{name}"
        self.score = "is" if published else f"is_{name}"
        self.precision = f"precision_{name}"
        self.recall = f"recall_{name}"
        self.spatial = "sfid" if published else f"sfd_{name}"
        self.kernel = "kid" if published else f"kd_{name}"
        self.density = f"density_{name}"
        self.coverage = f"coverage_{name}"
        self.reconstructed = "rfid" if published else f"rfd_{name}"
