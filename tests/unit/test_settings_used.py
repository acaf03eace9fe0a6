"""Every setting is used or refused (contract 9): a field that no code reads is a lie to whoever sets it."""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest

from vim_core import config

REPOSITORY = Path(__file__).resolve().parents[2]


def fields() -> Iterator[tuple[str, str]]:
    """Dataclass and field name of every setting; a field is listed where it is defined."""
    for name, cls in vars(config).items():
        if dataclasses.is_dataclass(cls):
            own = vars(cls).get("__annotations__", {})
            yield from ((name, field) for field in own)


def attributes_read(text: str) -> set[str]:
    """Names read as attributes in a source text; assigning one is not reading it."""
    nodes = ast.walk(ast.parse(text))
    return {node.attr for node in nodes if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)}


@pytest.fixture(scope="module")
def read() -> set[str]:
    names: set[str] = set()
    for package in ("vim_core", "components", "pipelines"):
        for path in sorted((REPOSITORY / package).rglob("*.py")):
            if Path(config.__file__).resolve().parent not in path.parents:
                names |= attributes_read(path.read_text(encoding="utf-8"))
    # The pipeline's groups are also read by component name: `getattr(config, name)` in components/artifacts/execute.py.
    return names | {field.name for field in dataclasses.fields(config.PipelineConfig) if field.name != "preset"}


@pytest.mark.parametrize(("cls", "field"), sorted(fields()))
def test_setting_is_read(read: set[str], cls: str, field: str) -> None:
    assert field in read, f"{cls}.{field} is set by people and read by nothing"


def test_assigning_or_naming_is_not_reading() -> None:
    assert attributes_read("config.steps = 5\nsteps = 3\nf(steps=4)\n'config.steps'") == set()
    assert attributes_read("for _ in range(config.steps): pass") == {"steps"}
