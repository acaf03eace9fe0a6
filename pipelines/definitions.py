"""Entry point of `dagster dev -m pipelines.definitions`: the preset `VIM_PRESET`, changed by `VIM_OVERRIDES`."""

from __future__ import annotations

import os
import shlex

import dagster as dg

from pipelines import presets
from pipelines.orchestration import assets
from pipelines.schedules import sensor

_config = presets.load(presets.default(), shlex.split(os.environ.get("VIM_OVERRIDES", "")))
defs = dg.Definitions.merge(assets.build(_config), sensor.build(_config))
