"""The wheel ships the three packages with their data, and the command works from it."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.support.common import REPOSITORY

PACKAGES = {"pipelines", "components", "vim_core"}
DATA = (".yaml", ".sh", ".j2", ".html", ".css", ".js")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this tree, built in this environment."""
    target = tmp_path_factory.mktemp("wheel")
    uv = Path(sys.executable).parent / "uv"
    command = [str(uv), "build", "--wheel", "--no-build-isolation", "--python", sys.executable, "-o", str(target)]
    subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, text=True)
    (built,) = target.glob("*.whl")
    return built


def tracked(package: str) -> set[str]:
    """Source and data files of a package in this tree."""
    paths = (REPOSITORY / package).rglob("*")
    wanted = {path for path in paths if path.suffix in (".py", *DATA) and "__pycache__" not in path.parts}
    return {path.relative_to(REPOSITORY).as_posix() for path in wanted}


def test_it_ships_three_packages_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == PACKAGES
    assert any(name.endswith("licenses/LICENSE") for name in names)


@pytest.mark.parametrize("package", sorted(PACKAGES))
def test_it_ships_every_module_and_data_file(wheel: Path, package: str) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert tracked(package) <= names
    assert not [name for name in names if "__pycache__" in name]


def test_the_command_works_from_the_unpacked_wheel(wheel: Path, tmp_path: Path) -> None:
    """Presets are found beside the installed package, not in the working folder."""
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    lines = ["import sys", f"sys.path.insert(0, {str(tmp_path / 'site')!r})", "import pipelines.cli.main as cli"]
    lines += [f"assert cli.__file__.startswith({str(tmp_path)!r}), cli.__file__", "sys.argv[0] = 'vimctl'"]
    lines += ["sys.exit(cli.main(['config', '--preset', 'smoke']))"]
    environment = {**os.environ, "VIM_ROOT": str(tmp_path / "root"), "PYTHONSAFEPATH": "1"}
    command = [sys.executable, "-c", "\n".join(lines)]
    ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert "preset: smoke" in ended.stdout
