"""Feature networks of `statistics` and `score`: specification, one instance per process, names of its figures."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
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


@dataclass(frozen=True)
class FigureNames:
    """Names of the figures of a feature network (contract 8); FID and IS stand for the published Inception alone."""

    distance: str
    score: str
    precision: str
    recall: str
    spatial: str
    kernel: str
    density: str
    coverage: str
    reconstructed: str

    @staticmethod
    def of_network(network: Mapping[str, Any]) -> FigureNames:
        """From the property `network` of a statistics artifact."""
        name = str(network["kind"]).rsplit(":", 1)[-1]
        published = bool(network.get("published"))
        return FigureNames(
            distance="fid" if published else f"fd_{name}",
            score="is" if published else f"is_{name}",
            precision=f"precision_{name}",
            recall=f"recall_{name}",
            spatial="sfid" if published else f"sfd_{name}",
            kernel="kid" if published else f"kd_{name}",
            density=f"density_{name}",
            coverage=f"coverage_{name}",
            reconstructed="rfid" if published else f"rfd_{name}",
        )
