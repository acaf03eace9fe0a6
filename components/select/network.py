"""The network that selects samples, from settings and artifacts."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from components.contract.api import Artifact
from vim_core.config import NetworkConfig, SelectConfig, TradeoffConfig
from vim_core.errors import ConfigError

if TYPE_CHECKING:
    from vim_core.features.selectors import Selector, SelectorSpec

OWN = "selector"
"""`network.name` of the pipeline's own classifier; also the component that trains it."""


def selector_spec(
    config: NetworkConfig, inputs: Mapping[str, Artifact], classes: list[str], device: str, who: str
) -> SelectorSpec:
    """The network that the component `who` selects with, for images of these classes.

    Raises:
        ConfigError: it is the pipeline's own, and the preset has no component `selector`; or nothing is conditioned.
        DataError: the list of the network's classes cannot be read.
    """
    from vim_core.features.selectors import SelectorSpec

    if not classes:
        raise ConfigError(f"{who}: the samples have no classes to select by; leave {who} out for such a prior")
    if config.name != OWN:
        from components.ingest.labels import read_classes

        # by the class ids of image tables
        listed = read_classes(config.classes).ids if config.classes else ()
        return SelectorSpec(config.name, config.weights, "", config.sha256, tuple(classes), listed, device=device)
    if OWN not in inputs:
        raise ConfigError(
            f"{who}.network.name={OWN!r}: needs the component {OWN}; add it to the preset's components, "
            "or name another network"
        )
    selector = inputs[OWN]
    weights, shape, own = selector.uri("model.safetensors"), selector.uri("config.json"), selector.properties["classes"]
    return SelectorSpec(OWN, weights, shape, selector.digest, tuple(classes), tuple(own), device)


def source_state(config: SelectConfig | TradeoffConfig) -> str:
    """Digest of the file that lists the network's classes, part of the fingerprint; '' without one.

    Raises:
        DataError: it cannot be read.
    """
    from components.ingest.labels import file_digest

    listed = config.network.classes
    return file_digest(listed, "network.classes") if listed else ""


@functools.lru_cache(maxsize=1)
def cached_selector(spec: SelectorSpec) -> Selector:
    """The loaded network; one per process, whatever the number of shards."""
    from vim_core.features.selectors import load_selector

    return load_selector(spec)


def describe(spec: SelectorSpec) -> dict[str, Any]:
    """Name, digest and preprocessing of the network, for protocols."""
    selector = cached_selector(spec)
    return {"name": spec.name, "digest": selector.digest, "preprocessing": selector.preprocessing}
