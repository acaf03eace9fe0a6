"""Every setting is used or refused (contract 9): a field that no code reads is a lie to whoever sets it."""

from __future__ import annotations

import ast
import dataclasses
from pathlib import Path

from vim_core import config

REPOSITORY = Path(__file__).resolve().parents[2]


def attributes_read(text: str) -> set[str]:
    """Names read as attributes in a source text; assigning one is not reading it."""
    nodes = ast.walk(ast.parse(text))
    return {node.attr for node in nodes if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)}


def test_every_setting_is_read() -> None:
    # The pipeline's groups are also read by component name: `getattr(config, name)` in components/artifacts/execute.py.
    read = {field.name for field in dataclasses.fields(config.PipelineConfig) if field.name != "preset"}
    for package in ("vim_core", "components", "pipelines"):
        for path in (REPOSITORY / package).rglob("*.py"):
            if Path(config.__file__).resolve().parent not in path.parents:
                read |= attributes_read(path.read_text(encoding="utf-8"))
    classes = {name: cls for name, cls in vars(config).items() if dataclasses.is_dataclass(cls)}
    # a field is listed where it is defined
    defined = [(name, field) for name, cls in classes.items() for field in vars(cls).get("__annotations__", {})]
    assert len(defined) > 100
    assert [(name, field) for name, field in defined if field not in read] == []


def test_assigning_or_naming_is_not_reading() -> None:
    assert attributes_read("config.steps = 5\nsteps = 3\nf(steps=4)\n'config.steps'") == set()
    assert attributes_read("for _ in range(config.steps): pass") == {"steps"}
