"""What `dagster dev -m pipelines.definitions` shows: the preset named by `VIM_PRESET`, changed by `VIM_OVERRIDES`."""

from __future__ import annotations

import os
import shlex

from pipelines import assets, presets

defs = assets.build(presets.load(presets.default(), shlex.split(os.environ.get("VIM_OVERRIDES", ""))))
