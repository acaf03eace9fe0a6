"""The entry point of `dagster dev`."""

from __future__ import annotations

import importlib

import pytest

from components.contract import commands


def test_dagster_dev_loads_what_the_environment_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIM_PRESET", "smoke")
    monkeypatch.setenv("VIM_OVERRIDES", "'components=[ingest, quantize]' quantize.steps=3")
    from pipelines import definitions

    with commands.command_context(""):  # what it carries ends here
        definitions = importlib.reload(definitions)
        assert commands.command("report").startswith("vimctl report --preset smoke 'components=[ingest, quantize]'")
    keys = definitions.defs.resolve_asset_graph().get_all_asset_keys()
    assert {key.to_user_string() for key in keys} == {"ingest", "quantize"}
