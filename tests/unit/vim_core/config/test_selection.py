"""Settings of rejection sampling: what cannot work is refused with its key."""

from __future__ import annotations

from typing import Any

import pytest

from vim_core.config import (
    ClassifyConfig,
    IngestConfig,
    NetworkConfig,
    PipelineConfig,
    SelectConfig,
    SelectorConfig,
    TradeoffConfig,
)
from vim_core.errors import ConfigError


@pytest.mark.parametrize(
    ("cls", "fields", "message"),
    [
        (SelectConfig, {"count": 0}, r"select\.count=0: must be positive"),
        (SelectConfig, {"rates": []}, r"select\.rates=\[\]: name at least one"),
        (SelectConfig, {"rates": [0.5, 0.5]}, r"select\.rates=.*names a rate twice"),
        (SelectConfig, {"rates": [0.0]}, r"select\.rates=.*lie in \(0, 1\]"),
        (SelectConfig, {"shards": 0}, r"select\.shards=0"),
        (TradeoffConfig, {"guidances": []}, r"tradeoff\.guidances=\[\]: name at least one"),
        (TradeoffConfig, {"guidances": [1.0, 1.0]}, r"tradeoff\.guidances=.*twice"),
        (TradeoffConfig, {"temperatures": [0.0]}, r"tradeoff\.temperatures=.*must be positive"),
        (TradeoffConfig, {"acceptances": [2.0]}, r"tradeoff\.acceptances=.*lie in"),
        (TradeoffConfig, {"bootstrap": 3}, r"tradeoff\.bootstrap=3: must be 0 .* or at least 20"),
        (TradeoffConfig, {"precision": "fp16"}, r"tradeoff\.precision='fp16': must be one of fp32, bf16"),
        (NetworkConfig, {"name": "resnet101"}, r"network\.name='resnet101': must be selector, torchvision:"),
        (NetworkConfig, {"name": "torchvision:resnet101"}, r"network\.weights='': give the path or URI"),
        (NetworkConfig, {"name": "torchvision:x", "weights": "w", "sha256": "12"}, r"network\.sha256='12': must be"),
        (NetworkConfig, {"weights": "w"}, r"'w': is for networks from outside"),
        (SelectorConfig, {"accumulate": 2}, r"selector\.accumulate=2: must be 1"),
    ],
)
def test_refusals(cls: Any, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        cls(**fields)


def test_a_network_from_outside_is_named_with_weights_and_their_hash() -> None:
    made = NetworkConfig("torchvision:resnet101", "gs://b/resnet101.pth", "cd907fc2")
    assert (made.name, made.classes) == ("torchvision:resnet101", "")


def test_a_selector_like_the_judge_is_refused_before_anything_runs() -> None:
    components = ["ingest", "classify", "selector"]
    PipelineConfig(components=components)
    with pytest.raises(ConfigError, match=r"selector\.seed=0: is that of classify, and so are all other settings"):
        PipelineConfig(components=components, selector=SelectorConfig(seed=0))
    # how it runs makes no other network, a width does
    with pytest.raises(ConfigError, match=r"selector\.seed=0"):
        PipelineConfig(components=components, selector=SelectorConfig(seed=0, log_every=3))
    PipelineConfig(components=components, selector=SelectorConfig(seed=0, width=8), classify=ClassifyConfig(width=16))
    PipelineConfig(components=["ingest", "selector"], selector=SelectorConfig(seed=0))


@pytest.mark.parametrize("name", ["selector", "select", "tradeoff"])
def test_images_without_classes_have_nothing_to_select_by(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} needs classes, and ingest.labelled=false"):
        PipelineConfig(components=["ingest", name], ingest=IngestConfig(labelled=False))
