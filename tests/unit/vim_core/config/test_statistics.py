"""Settings of `statistics` that contradict each other are refused by name."""

from __future__ import annotations

from typing import Any

import pytest

from vim_core.config import PipelineConfig, StatisticsConfig
from vim_core.errors import ConfigError

SHA = "0123456789abcdef"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"network": "clip"}, r"statistics\.network='clip': must be one of classifier, inception, torchvision"),
        ({"weights": "x.pth"}, r"statistics\.weights='x\.pth': is read for statistics\.network=inception"),
        ({"image_size": 64}, r"statistics\.image_size=64: is read for"),
        ({"network": "inception", "image_size": -1}, r"statistics\.image_size=-1"),
        ({"network": "torchvision:vgg11"}, r"statistics\.weights_sha256='': must be given"),
        ({"network": "inception", "weights_sha256": "xyz"}, r"statistics\.weights_sha256='xyz': must be the first"),
        ({"reference_sha256": SHA}, r"statistics\.reference_sha256=.*has no use without statistics\.reference"),
        ({"score_splits": -1}, r"statistics\.score_splits=-1"),
        ({"features": -1}, r"statistics\.features=-1"),
        ({"features": 5}, r"statistics\.features=5: must be 0 \(none\) or above 5"),
        ({"halves": []}, r"statistics\.halves"),
    ],
)
def test_contradictions_are_named(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        StatisticsConfig(**fields)


def test_what_fits_passes() -> None:
    StatisticsConfig("inception", "x.pth", image_size=256, score_splits=10, features=10_000)
    StatisticsConfig("inception", "x.pth", SHA, reference="gs://bucket/ref.npz", reference_sha256=SHA)
    StatisticsConfig("torchvision:resnet50", "x.safetensors", SHA)


def test_the_classifiers_statistics_need_the_classifier() -> None:
    with pytest.raises(ConfigError, match=r"statistics\.network=classifier needs classify"):
        PipelineConfig(components=["ingest", "statistics"])
    PipelineConfig(components=["ingest", "statistics"], statistics=StatisticsConfig("inception", "x.pth"))
