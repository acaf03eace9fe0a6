"""Artifacts made by earlier versions of the code are found again: no fingerprint has changed."""

from __future__ import annotations

import json
from pathlib import Path

from components.artifacts import execute
from components.contract import registry, settings

OLD_ROOT = Path(__file__).with_name("old_root")
"""Manifests of the preset smoke without their files, metrics and protocols."""
PRESETS = Path(__file__).resolve().parents[4] / "pipelines" / "conf"


def test_every_artifact_of_the_smoke_preset_is_found() -> None:
    config = settings.load("smoke", [f"run.root={OLD_ROOT}"], folder=PRESETS)
    assert set(config.components) == set(registry.NAMES)
    for name in config.components:
        (manifest,) = (OLD_ROOT / name).glob("*/manifest.json")
        request = execute.prepare(name, config)
        assert request.settings == json.loads(manifest.read_text())["config"]
        assert request.fingerprint == manifest.parent.name
        assert request.stored() is not None
