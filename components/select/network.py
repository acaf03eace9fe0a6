"""The network that selects, from settings and artifacts; and the rule that it never judges (contract 8)."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from components.contract.api import Artifact
from vim_core.config import NetworkConfig
from vim_core.errors import ConfigError, LineageError

if TYPE_CHECKING:
    from vim_core.features.selectors import Selector, SelectorSpec

OWN = "selector"
"""`network.name` of the pipeline's own; also the component that trains it."""
WEIGHTS = "model.safetensors"


def spec_of(
    config: NetworkConfig, inputs: Mapping[str, Artifact], classes: list[str], device: str, who: str
) -> SelectorSpec:
    """The network that `who` selects with, for images of these classes.

    Raises:
        ConfigError: it is the pipeline's own, and the preset has no component `selector`; or nothing is conditioned.
        DataError: the list of the network's classes cannot be read.
    """
    from vim_core.features.selectors import SelectorSpec

    if not classes:
        raise ConfigError(f"{who}: the samples have no classes to select by; leave {who} out for such a prior")
    wanted = tuple(classes)
    if config.name != OWN:
        return SelectorSpec(
            config.name, config.weights, "", config.sha256, wanted, _listed(config.classes), device=device
        )
    if OWN not in inputs:
        raise ConfigError(
            f"{who}.network.name={OWN!r}: needs the component {OWN}; add it to the preset's components, "
            "or name another network"
        )
    made = inputs[OWN]
    own = tuple(made.properties["classes"])
    return SelectorSpec(OWN, made.uri(WEIGHTS), made.uri("config.json"), made.digest, wanted, own, device)


def state_of(config: NetworkConfig) -> str:
    """What the list of classes is, as text: part of the fingerprint. Raises `DataError` where it cannot be read."""
    from components.ingest.labels import file_digest

    return file_digest(config.classes, "network.classes") if config.classes else ""


def _listed(uri: str) -> tuple[str, ...]:
    """The classes that a file lists, by the ids that image tables call them by."""
    from components.ingest.labels import read_classes

    return read_classes(uri).ids if uri else ()


@functools.lru_cache(maxsize=1)
def loaded(spec: SelectorSpec) -> Selector:
    """One network per process, whatever the number of shards."""
    from vim_core.features.selectors import load_selector

    return load_selector(spec)


def described(spec: SelectorSpec) -> dict[str, Any]:
    """What a protocol says of the network."""
    selector = loaded(spec)
    return {"name": spec.name, "digest": selector.digest, "preprocessing": selector.preprocessing}


def refuse_as_judge(judge: Artifact, selector: str, who: str) -> None:
    """Raise `LineageError` if the judge is the network that selected: by its digest, or by that of its weight file."""
    weights = {entry.sha256 for entry in judge.manifest.files if entry.name == WEIGHTS}
    if selector == judge.digest or selector in weights:
        raise LineageError(
            f"{who}: the classifier {selector[:12]} selected the samples, so it cannot judge them: "
            "select by another network, or train selector with another seed"
        )
