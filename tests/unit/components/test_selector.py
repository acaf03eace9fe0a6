"""`selector`: trained as `classify` is, and another network by its seed alone."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from components import classify, selector
from components.contract.api import Artifact
from tests.support.synthetic import context_of
from tests.support.tiny import classify_config
from vim_core.config import ClassifyConfig, SelectorConfig
from vim_core.storage import io


@pytest.mark.usefixtures("trained_here")
def test_the_seed_alone_tells_selector_and_classifier_apart(images: Artifact, tmp_path: Path) -> None:
    # asdict would turn nested groups into dictionaries
    fields = {name: getattr(classify_config(), name) for name in asdict(classify_config())}

    def trained(component: Any, config: ClassifyConfig, name: str) -> tuple[dict[str, Any], bytes]:
        ctx = context_of(tmp_path / name, component.__name__.rsplit(".", 1)[-1])
        properties = component.run(config, {"images": images}, ctx).properties
        return properties, io.read_bytes(ctx.path("model.safetensors"))

    classifier = trained(classify, ClassifyConfig(**fields), "classify")[1]
    properties, weights = trained(selector, SelectorConfig(**fields | {"seed": SelectorConfig().seed}), "selector")
    assert weights != classifier
    assert (properties["images"], properties["classes"]) == (images.digest, images.properties["classes"])
    # The pipeline's settings demand different seeds for this reason.
    assert trained(selector, SelectorConfig(**fields | {"seed": ClassifyConfig().seed}), "same")[1] == classifier
