"""`selector`: trained as the judge is, and another network by its seed alone."""

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
def test_another_seed_makes_another_network_and_the_judges_seed_the_judge(images: Artifact, tmp_path: Path) -> None:
    # groups as they are, not as dictionaries
    fields = {name: getattr(classify_config(), name) for name in asdict(classify_config())}

    def trained(component: Any, config: ClassifyConfig, name: str) -> tuple[dict[str, Any], bytes]:
        ctx = context_of(tmp_path / name, component.__name__.rsplit(".", 1)[-1])
        properties = component.run(config, {"images": images}, ctx).properties
        return properties, io.read_bytes(ctx.path("model.safetensors"))

    judge = trained(classify, ClassifyConfig(**fields), "judge")[1]
    properties, weights = trained(selector, SelectorConfig(**fields | {"seed": SelectorConfig().seed}), "own")
    assert weights != judge
    assert (properties["images"], properties["classes"]) == (images.digest, images.properties["classes"])
    # so the seed must differ, as the settings of a pipeline demand
    assert trained(selector, SelectorConfig(**fields | {"seed": ClassifyConfig().seed}), "same")[1] == judge
