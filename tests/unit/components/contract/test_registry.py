"""Components are found by name and wired to the inputs that a preset has."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from components.contract import registry
from vim_core.config import PipelineConfig, StatisticsConfig
from vim_core.errors import ConfigError

WIRING = {
    "ingest": {},
    "quantize": {"images": "ingest"},
    "tokenize": {"images": "ingest", "tokenizer": "quantize"},
    "classify": {"images": "ingest"},
    "score": {"codes": "tokenize", "classifier": "classify?"},
}


@pytest.fixture
def wired(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "component", lambda name: SimpleNamespace(VERSION=1, INPUTS=WIRING[name]))


def test_an_unknown_component_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"'qantize' is no component; did you mean quantize\?"):
        registry.component("qantize")
    with pytest.raises(ConfigError, match="known are ingest, "):
        registry.component("zzz")


@pytest.mark.usefixtures("wired")
def test_optional_inputs_follow_the_preset_and_a_missing_required_one_is_named() -> None:
    without = ["ingest", "quantize", "tokenize", "score"]
    assert registry.inputs_of("score", without) == {"codes": "tokenize"}
    assert registry.inputs_of("score", [*without, "classify"]) == {"codes": "tokenize", "classifier": "classify"}
    with pytest.raises(ConfigError, match="tokenize needs quantize; add quantize"):
        registry.inputs_of("tokenize", ["ingest", "tokenize"])


@pytest.mark.usefixtures("wired")
def test_upstream_is_all_before_a_component_in_flow_order() -> None:
    components = ["score", "tokenize", "quantize", "ingest", "classify"]
    assert registry.upstream("score", components) == ["ingest", "classify", "quantize", "tokenize"]
    assert registry.upstream("ingest", components) == []


@pytest.mark.parametrize("network", ["classifier", "inception", "torchvision:squeezenet1_1"])
def test_statistics_wait_for_the_classifier_only_where_they_use_it(network: str) -> None:
    components = ["ingest", "classify", "statistics"]
    digest = "0" * 8 if network.startswith("torchvision") else ""
    statistics = StatisticsConfig(network=network, weights_sha256=digest)
    config = PipelineConfig(components=components, statistics=statistics)
    wanted = {"images": "ingest"} | ({"classifier": "classify"} if network == "classifier" else {})
    assert registry.inputs_of("statistics", components, config) == wanted
    assert registry.upstream("statistics", components, config) == list(wanted.values())
    assert registry.inputs_of("statistics", components) == {"images": "ingest", "classifier": "classify"}


@pytest.mark.usefixtures("wired")
def test_flow_order_and_repetition() -> None:
    assert registry.in_flow_order(["score", "ingest", "tokenize"]) == ["ingest", "tokenize", "score"]
    with pytest.raises(ConfigError, match="'ingest' is listed 2 times"):
        registry.in_flow_order(["ingest", "ingest"])


@pytest.mark.parametrize("name", registry.NAMES)
def test_every_component_reads_only_from_those_before_it(name: str) -> None:
    module = registry.component(name)
    before = registry.NAMES[: registry.NAMES.index(name)]
    assert {source.removesuffix("?") for source in module.INPUTS.values()} <= set(before)
    assert isinstance(module.VERSION, int)
    assert callable(module.run)
