"""The presets that ship with the package: names and loading."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vim_core.config import PipelineConfig

FOLDER = Path(__file__).parent / "conf"


def default() -> str:
    """The preset used where none is named: `VIM_PRESET`, else digits."""
    return os.environ.get("VIM_PRESET", "digits")


def load(preset: str, overrides: list[str]) -> PipelineConfig:
    """A preset by name or file, with dotted overrides. Raises `ConfigError`."""
    from components.contract import settings

    return settings.load(preset, overrides, FOLDER)


def origins(preset: str, overrides: list[str]) -> dict[str, str]:
    """Where each setting is from, below the folder of presets where it is there. Raises `ConfigError`."""
    from components.contract import settings

    found = settings.origins(preset, overrides, FOLDER)
    return {key: origin.removeprefix(f"{FOLDER}{os.sep}") for key, origin in found.items()}


def absolute(name: str) -> str:
    """The absolute path of a YAML file, for use from another folder; the name of a preset or profile as it is."""
    return os.path.abspath(name) if name.endswith((".yaml", ".yml")) else name
