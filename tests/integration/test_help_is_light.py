"""`vimctl --help` answers in under a second; help, settings and components load no engine."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import pytest

from tests.support.common import REPOSITORY, environment

ENGINES = ("torch", "torchvision", "ray", "apache_beam", "mlflow", "dagster", "pandas", "pyarrow", "sklearn", "scipy")
COMMAND = "from pipelines.cli.main import main\ntry: main({!r})\nexcept SystemExit as end: assert not end.code"
COMPONENTS = "from components.contract import registry; [registry.component(name) for name in registry.NAMES]"
LOADED = "\nimport json, sys; print(); print(json.dumps(sorted({!r} & set(sys.modules))))"


def run(source: str, root: str, watched: tuple[str, ...]) -> list[str]:
    """Names among `watched` that a new process has imported after running `source`."""
    command = [sys.executable, "-c", source + LOADED.format(set(watched))]
    ended = subprocess.run(command, cwd=REPOSITORY, env=environment(root), capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    loaded: list[str] = json.loads(ended.stdout.splitlines()[-1])
    return loaded


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["encode", "--help"], ["presets"]], ids=" ".join)
def test_help_loads_no_engine_and_no_settings_library(arguments: list[str], root: str) -> None:
    assert run(COMMAND.format(arguments), root, (*ENGINES, "omegaconf")) == []


@pytest.mark.parametrize("source", [COMMAND.format(["config", "--preset", "smoke"]), COMPONENTS], ids=["config", "all"])
def test_settings_and_components_load_no_engine(source: str, root: str) -> None:
    assert run(source, root, ENGINES) == []


def test_help_answers_in_under_a_second(root: str) -> None:
    """The best of three, because other processes share this machine."""
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        run(COMMAND.format(["--help"]), root, ())
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 1
