"""The presets that ship with the package: names, headlines, loading."""

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


def headlines() -> dict[str, str]:
    """Every preset's name and the first line of its header."""
    from components.contract import settings

    return {name: _headline(FOLDER / f"{name}.yaml") for name in settings.presets(FOLDER)}


def _headline(path: Path) -> str:
    with open(path, encoding="utf-8") as stream:
        return stream.readline().lstrip("# ").strip()
