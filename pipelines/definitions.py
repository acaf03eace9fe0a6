"""Entry point of `dagster dev -m pipelines.definitions`: the preset `VIM_PRESET`, changed by `VIM_OVERRIDES`."""

from __future__ import annotations

import os
import shlex

import dagster as dg

from components.contract.commands import Given, carry
from pipelines import presets
from pipelines.orchestration import assets
from pipelines.schedules import sensor

_overrides = shlex.split(os.environ.get("VIM_OVERRIDES", ""))
carry(Given(presets.default(), tuple(_overrides)))
_config = presets.load(presets.default(), _overrides)
defs = dg.Definitions.merge(assets.build(_config), sensor.build(_config))
