"""Hints: the preset, settings and root that they carry, quoted for a shell."""

from __future__ import annotations

import os

import pytest

from components.contract.commands import command, command_context


@pytest.mark.parametrize(
    ("words", "preset", "settings", "root", "line"),
    [
        (["run", "prior"], "digits", ["a=1"], "", "vimctl run prior --preset digits a=1"),
        (["ui"], "my presets/x.yaml", [], "", f"vimctl ui --preset '{os.getcwd()}/my presets/x.yaml'"),
        (["ui"], "", ["run.root=/r s", "a=[1, 2]"], "", "vimctl ui --preset own 'a=[1, 2]' 'run.root=/r s'"),
        (["sweep", "show", "s"], "p", [], "gs://b/r", "vimctl sweep show s --preset p run.root=gs://b/r"),
        (["artifacts", "list"], "p", ["a=1", "run.root=/r"], "", "vimctl artifacts list --root /r"),
        (["artifacts", "list"], "p", ["a=1"], "", "vimctl artifacts list --preset p"),
        (["cluster", "up"], "p", ["a=1"], "/r", "vimctl cluster up"),
    ],
)
def test_a_hint_carries_what_its_command_takes(
    words: list[str], preset: str, settings: list[str], root: str, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("VIM_ROOT")
    with command_context(preset, settings, root):
        assert command(*words, preset="own") == line
    assert command("run", preset="own") == "vimctl run --preset own"
    assert command("logs", "-f", "j", cluster="my c.yaml") == "vimctl logs -f j --cluster 'my c.yaml'"
    monkeypatch.setenv("VIM_ROOT", "/from/env")
    assert command("run") == "vimctl run run.root=/from/env"
