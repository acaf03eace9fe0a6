"""One code for a command and all processes that it starts."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import components
from components.contract import code
from tests.support.common import other_checkout
from vim_core.errors import CodeError


def test_a_process_imports_what_its_command_does_wherever_it_starts(tmp_path: Path) -> None:
    folder = other_checkout(tmp_path)
    for script in ("from components.contract import code", f"import {code.PACKAGES[0]}.errors"):
        command = [sys.executable, "-c", script]
        assert subprocess.run(command, cwd=folder, capture_output=True, check=False).returncode == 1
        environment = {"PATH": "", **code.child_environment()}
        assert subprocess.run(command, cwd=folder, env=environment, capture_output=True, check=False).returncode == 0
    assert str(Path(components.__file__).parents[1]) in code.search_path()
    assert not any(folder.startswith(sys.prefix) for folder in code.search_path())


def test_another_source_is_refused_with_both_folders_and_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    own = code.current()
    code.check(own)
    code.check(replace(own, folder="/elsewhere"))
    code.check(code.for_others())
    other = code.Code("/opt/vim", own.version, "0123456789ab")
    with pytest.raises(CodeError, match=rf"{own.digest}, in {own.folder}.*0123456789ab, in /opt/vim.*install one"):
        code.check(other)
    with pytest.raises(CodeError, match="files there were changed since the command began: start it again"):
        code.check(replace(own, digest="0123456789ab"))


def test_the_digest_follows_the_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = other_checkout(tmp_path)
    monkeypatch.setattr(code, "PACKAGES", ("edited",))
    monkeypatch.syspath_prepend(folder)
    found = set()
    for text in ("a = 1", "a = 2", "a = 2"):
        (folder / "edited").mkdir(exist_ok=True)
        (folder / "edited" / "__init__.py").write_text(text)
        found.add(code.current.__wrapped__())
    assert len(found) == 2
    assert {each.folder for each in found} == {str(folder)}
