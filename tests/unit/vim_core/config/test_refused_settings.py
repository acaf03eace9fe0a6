"""Settings that cannot work or have no use are refused with their key."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import is_dataclass
from math import isfinite, nan
from typing import Any

import pytest

from tests.support.tiny import classify_config, prior_config, quantize_config
from vim_core.config import (
    AugmentConfig,
    ClassifyConfig,
    CodebookConfig,
    DiscriminatorConfig,
    EntropyConfig,
    GatesConfig,
    IngestConfig,
    NetworkConfig,
    OptimConfig,
    PipelineConfig,
    ProbeConfig,
    RestartConfig,
    SampleConfig,
    SelectConfig,
    SelectorConfig,
    StatisticsConfig,
    TradeoffConfig,
    TrainConfig,
)
from vim_core.config.decode import field_types
from vim_core.config.fields import ranges
from vim_core.errors import ConfigError

SHA = "0123456789abcdef"
FROZEN: dict[str, Any] = {"init_from": "there", "freeze_encoder": True}


@pytest.mark.parametrize(
    ("cls", "fields", "message"),
    [
        (OptimConfig, {"first_moment": "int8"}, "first_moment='int8': needs kind=factored"),
        (OptimConfig, {"update_clip": 1.0}, r"update_clip=1\.0: needs kind=factored"),
        (OptimConfig, {"kind": "lion"}, "kind='lion': must be one of adamw, factored"),
        (CodebookConfig, {"gradient": "rotate"}, r"codebook\.gradient='rotate'"),
        (EntropyConfig, {"weight": -1.0}, r"entropy\.weight="),
        (EntropyConfig, {"temperature": 0.0}, r"entropy\.temperature="),
        (EntropyConfig, {"diversity": -0.5}, r"entropy\.diversity="),
        (DiscriminatorConfig, {"kind": "pix2pix"}, r"discriminator\.kind='pix2pix'"),
        (GatesConfig, {"codebook_usage": 1.5}, r"gates\.codebook_usage=1\.5"),
        (GatesConfig, {"nonfinite_share": -1}, r"gates\.nonfinite_share=-1"),
        (IngestConfig, {"layout": "zip"}, r"ingest\.layout='zip': must be one of auto, folders"),
        (IngestConfig, {"class_list": "x", "classes": ["a"]}, r"class_list='x': ingest\.classes is given too"),
        (SampleConfig, {"guidance_schedule": "sine"}, "must be one of constant, linear, cosine"),
        (SampleConfig, {"guidance_schedule": "cosine"}, "needs sample.guidance other than 1"),
        (SampleConfig, {"guidance": 2.0, "guidance_power": 2.0}, "is for a guidance_schedule that rises"),
        (SampleConfig, {"guidance": 2.0, "guidance_schedule": "linear", "guidance_power": 0.0}, "must be positive"),
        (SampleConfig, {"prefix": 1.0}, r"sample\.prefix=1\.0: must lie in \[0, 1\)"),
        (SampleConfig, {"shards": 0}, "must be positive"),
        (TrainConfig, {"on_nonfinite": "stop"}, "on_nonfinite='stop': must be one of skip, halt"),
        (quantize_config, {"batch": 8, "accumulate": 3}, "accumulate=3: does not divide batch=8"),
        (prior_config, {"accumulate": 0}, "accumulate=0: must be positive"),
        (classify_config, {"accumulate": 2}, r"classify\.accumulate=2: must be 1, because batch norm"),
        (SelectorConfig, {"accumulate": 2}, r"selector\.accumulate=2: must be 1"),
        (prior_config, {"image_decoding": "scaled"}, "prior.image_decoding='scaled': is for prior.source=images"),
        (quantize_config, {"image_decoding": "half"}, "image_decoding='half': must be one of full, scaled"),
        (prior_config, {"augment": AugmentConfig(flip=0.5)}, r"prior.augment=.*flip=0.5.*: is for prior.source=images"),
        (prior_config, {"source": "pixels"}, r"prior\.source='pixels': must be one of codes, images"),
        (quantize_config, FROZEN | {"init_from": ""}, r"quantize\.freeze_encoder=True: needs quantize\.init_from"),
        (quantize_config, {"init_decoder": "load"}, r"init_decoder='load': needs"),
        (quantize_config, {"init_decoder": "some"}, r"init_decoder='some': must be one of fresh, load"),
        (
            quantize_config,
            FROZEN | {"codebook": CodebookConfig(restart=RestartConfig(every=2))},
            r"restart\.every=2: must be 0",
        ),
        (
            quantize_config,
            FROZEN | {"codebook": CodebookConfig(entropy=EntropyConfig(weight=0.1))},
            r"entropy\.weight=0\.1: must be 0",
        ),
        (StatisticsConfig, {"network": "clip"}, r"network='clip': must be one of classifier, inception, torchvision"),
        (StatisticsConfig, {"weights": "x.pth"}, r"weights='x\.pth': is read for statistics\.network=inception"),
        (StatisticsConfig, {"image_size": 64}, r"statistics\.image_size=64: is read for"),
        (StatisticsConfig, {"network": "inception", "image_size": -1}, r"statistics\.image_size=-1"),
        (StatisticsConfig, {"network": "torchvision:vgg11"}, r"statistics\.weights_sha256='': must be given"),
        (
            StatisticsConfig,
            {"network": "inception", "weights_sha256": "xyz"},
            r"sha256='xyz': must be the first",
        ),
        (StatisticsConfig, {"reference_sha256": SHA}, r"has no use without statistics\.reference"),
        (StatisticsConfig, {"score_splits": -1}, r"statistics\.score_splits=-1"),
        (StatisticsConfig, {"features": 5}, r"statistics\.features=5: must be 0 \(none\) or above 5"),
        (StatisticsConfig, {"halves": []}, r"statistics\.halves"),
        (SelectConfig, {"count": 0}, r"select\.count=0: must be positive"),
        (SelectConfig, {"rates": []}, r"select\.rates=\[\]: name at least one"),
        (SelectConfig, {"rates": [0.5, 0.5]}, r"select\.rates=.*names a rate twice"),
        (SelectConfig, {"rates": [0.0]}, r"select\.rates=.*lie in \(0, 1\]"),
        (SelectConfig, {"shards": 0}, r"select\.shards=0"),
        (TradeoffConfig, {"guidances": []}, r"tradeoff\.guidances=\[\]: name at least one"),
        (TradeoffConfig, {"guidances": [1.0, 1.0]}, r"tradeoff\.guidances=.*twice"),
        (TradeoffConfig, {"temperatures": [0.0]}, r"tradeoff\.temperatures=.*must be positive"),
        (TradeoffConfig, {"acceptances": [2.0]}, r"tradeoff\.acceptances=.*lie in"),
        (TradeoffConfig, {"groups": 1}, r"tradeoff\.groups=1: must be 0 .* or 2 up"),
        (TradeoffConfig, {"bootstrap": 3}, r"tradeoff\.bootstrap=3: must be 0 .* or at least 20"),
        (TradeoffConfig, {"precision": "fp16"}, r"tradeoff\.precision='fp16': must be one of highest, bf16"),
        (TrainConfig, {"precision": "fp64"}, "precision='fp64': must be one of auto, highest, high, bf16"),
        (NetworkConfig, {"name": "resnet101"}, r"network\.name='resnet101': must be selector, torchvision:"),
        (NetworkConfig, {"name": "torchvision:resnet101"}, r"network\.weights='': give the path or URI"),
        (NetworkConfig, {"name": "torchvision:x", "weights": "w", "sha256": "12"}, r"network\.sha256='12': must be"),
        (NetworkConfig, {"weights": "w"}, r"'w': is for networks from outside"),
        (ProbeConfig, {"optim": OptimConfig(lr=1.0)}, r"probe\.optim"),
        (ProbeConfig, {"ema": 0.5}, r"probe\.ema"),
        (ProbeConfig, {"evaluate_every": 3}, r"probe\.evaluate_every"),
        (ProbeConfig, {"learning_rates": []}, r"probe\.learning_rates"),
        (ProbeConfig, {"weight_decays": [-1.0]}, r"probe\.weight_decays"),
        (ProbeConfig, {"ridge": [0.0]}, r"probe\.ridge"),
        (ProbeConfig, {"momentum": 1.0}, r"probe\.momentum"),
        (ProbeConfig, {"decorrelate": -1.0}, r"probe\.decorrelate"),
        (ProbeConfig, {"validation_share": 0.0}, r"probe\.validation_share"),
        (ProbeConfig, {"pixels": -1}, r"probe\.pixels"),
    ],
)
def test_refusals(cls: Any, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        cls(**fields)


def numeric_settings(cls: Any = PipelineConfig, prefix: str = "") -> Iterator[tuple[str, Any, str]]:
    """Dotted name, class and field of every number, or list of numbers, of a preset."""
    for name, kind in field_types(cls).items():
        if is_dataclass(kind):
            yield from numeric_settings(kind, f"{prefix}{name}.")
        elif kind in (int, float, list[int], list[float]):
            yield prefix + name, cls, name


def test_every_numeric_setting_has_a_range_and_refuses_what_lies_outside() -> None:
    settings = list(numeric_settings())
    assert len(settings) > 150
    for key, cls, name in settings:
        assert name in ranges(cls), f"{key}: declare its Range"
        allowed = ranges(cls)[name]
        outside = [value for value in (allowed.low - 1, allowed.high + 1) if isfinite(value)]
        outside += [allowed.low] * allowed.above + [allowed.high] * allowed.below
        listed = field_types(cls)[name] in (list[int], list[float])
        for value in [nan, *(value for value in outside if value not in allowed)]:
            with pytest.raises(ConfigError, match=rf"\.{name}=.*: must"):
                cls(**{name: [1.0, value] if listed else value})


def test_settings_of_networks_from_outside_pass() -> None:
    NetworkConfig("torchvision:resnet101", "gs://b/resnet101.pth", "cd907fc2")
    StatisticsConfig("inception", "x.pth", image_size=256, score_splits=10, features=10_000)
    StatisticsConfig("inception", "x.pth", SHA, reference="gs://bucket/ref.npz", reference_sha256=SHA)
    StatisticsConfig("torchvision:resnet50", "x.safetensors", SHA)


def test_the_classifiers_statistics_need_the_classifier() -> None:
    with pytest.raises(ConfigError, match=r"statistics\.network=classifier needs classify"):
        PipelineConfig(components=["ingest", "statistics"])
    PipelineConfig(components=["ingest", "statistics"], statistics=StatisticsConfig("inception", "x.pth"))


def test_a_selector_equal_to_the_classifier_is_refused() -> None:
    components = ["ingest", "classify", "selector"]
    PipelineConfig(components=components)
    with pytest.raises(ConfigError, match=r"selector\.seed=0: is that of classify, and so are all other settings"):
        PipelineConfig(components=components, selector=SelectorConfig(seed=0))
    # Execution settings do not make another network, a width does.
    with pytest.raises(ConfigError, match=r"selector\.seed=0"):
        PipelineConfig(components=components, selector=SelectorConfig(seed=0, log_every=3))
    PipelineConfig(components=components, selector=SelectorConfig(seed=0, width=8), classify=ClassifyConfig(width=16))
    PipelineConfig(components=["ingest", "selector"], selector=SelectorConfig(seed=0))


@pytest.mark.parametrize("name", ["selector", "select", "tradeoff"])
def test_images_without_classes_cannot_be_selected(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} needs classes, and ingest.labelled=false"):
        PipelineConfig(components=["ingest", name], ingest=IngestConfig(labelled=False))
