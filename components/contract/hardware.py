"""Hardware files: what a machine changes about how a preset runs, never about what it learns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from components.contract import yaml_files
from vim_core.config import PipelineConfig
from vim_core.errors import ConfigError

SETTING = "run.hardware"
FOLDER = "hardware"
"""Folder of the files, beside the presets."""
TRAINED = ("quantize", "prior", "probe")
RUN = (
    "device", "threads", "workers", "parallel", "fsdp", "data_workers", "topology", "accelerator", "deterministic",
    "compile_cache", "beam_processes", "step_timeout_s",
)  # fmt: skip
ALLOWED = frozenset([
    *(f"run.{name}" for name in RUN),
    *(f"{component}.{name}" for component in TRAINED for name in ("recompute", "accumulate", "precision", "compile")),
    *(f"{component}.{name}" for component in ("classify", "selector") for name in ("precision", "compile")),
    *(f"{component}.{name}" for component in ("sample", "tradeoff") for name in ("lanes", "precision")),
])  # fmt: skip
"""The settings that a hardware file may have: batch, rates and steps are not among them."""


def names(folder: Path) -> list[str]:
    """The hardware files beside the presets of a folder, sorted."""
    return sorted(path.stem for path in (folder / FOLDER).glob("*.yaml"))


def read(name: str, folder: Path) -> tuple[str, dict[str, Any]]:
    """Path and settings of a hardware file: a name, or the path of a YAML file.

    Raises:
        ConfigError: there is none of this name, or it has a setting that is not in `ALLOWED`.
    """
    given = name.endswith((".yaml", ".yml"))
    path = Path(name) if given else folder / FOLDER / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(names(folder)) or "none"
        raise ConfigError(f"{SETTING}={name!r}: {'no such file' if given else f'unknown hardware; there are {known}'}")
    tree = yaml_files.read(path, PipelineConfig)
    for key, value in _leaves(tree, ""):
        if key not in ALLOWED:
            rule = "no setting of hardware, which never changes batch, rates or steps; set it in the preset"
            raise ConfigError(f"{key}={value!r} ({path}): {rule}, or on the command line")
    return str(path), tree


def chosen(trees: Sequence[dict[str, Any]]) -> str:
    """The name in the last of these settings that has one; '' where none has."""
    values = [tree["run"].get("hardware") for tree in trees if isinstance(tree.get("run"), dict)]
    return next((str(value) for value in reversed(values) if value is not None), "")


def _leaves(tree: dict[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
