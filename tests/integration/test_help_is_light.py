"""Asking `vimctl` for help, settings or a figure loads no engine."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.support.common import REPOSITORY, environment

ENGINES = ("torch", "torchvision", "ray", "apache_beam", "mlflow", "dagster", "pandas", "pyarrow", "sklearn", "scipy")
LOADED = """
import json, sys
from pipelines.cli.main import main
code = 0
try:
    code = main({arguments!r})
except SystemExit as end:
    code = end.code
print()
print(json.dumps([code or 0, sorted(set({engines!r}) & set(sys.modules))]))
"""


def loaded_by(arguments: list[str], root: str) -> list[str]:
    """Engines in memory after `vimctl` has answered."""
    source = LOADED.format(arguments=arguments, engines=ENGINES)
    command = [sys.executable, "-c", source]
    ended = subprocess.run(command, cwd=REPOSITORY, env=environment(root), capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    code, engines = json.loads(ended.stdout.splitlines()[-1])
    assert code == 0, ended.stdout + ended.stderr
    return [str(name) for name in engines]


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["encode", "--help"], ["presets"]], ids=" ".join)
def test_help_loads_no_engine(arguments: list[str], root: str) -> None:
    assert loaded_by(arguments, root) == []


def test_help_loads_no_settings_library(root: str) -> None:
    source = "import sys; from pipelines.cli.main import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
    source += "assert 'omegaconf' not in sys.modules"
    subprocess.run([sys.executable, "-c", source], cwd=REPOSITORY, env=environment(root), check=True, timeout=60)


def test_config_loads_no_engine(root: str) -> None:
    assert loaded_by(["config", "--preset", "smoke"], root) == []


def test_every_component_is_cheap_to_import() -> None:
    source = "import sys; from components.contract import registry; [registry.component(n) for n in registry.NAMES]; "
    source += f"print(sorted(set({ENGINES!r}) & set(sys.modules)))"
    ended = subprocess.run([sys.executable, "-c", source], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.strip() == "[]"
