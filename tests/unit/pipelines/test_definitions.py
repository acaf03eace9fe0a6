"""The entry point of `dagster dev`."""

from __future__ import annotations

import importlib

import pytest


def test_dagster_dev_loads_what_the_environment_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIM_PRESET", "smoke")
    monkeypatch.setenv("VIM_OVERRIDES", "'components=[ingest, quantize]' quantize.steps=3")
    from pipelines import definitions

    definitions = importlib.reload(definitions)
    keys = definitions.defs.resolve_asset_graph().get_all_asset_keys()
    assert {key.to_user_string() for key in keys} == {"ingest", "quantize"}
