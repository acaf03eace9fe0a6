"""`vimctl` commands named in messages: each one works as printed, for the preset, settings and root in use."""

from __future__ import annotations

import contextlib
import os
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from vim_core.storage import io

SETTINGS = ("run", "config", "report", "plan", "ui", "status", "submit", "doctor", "sweep")
"""Commands that take `--preset` and settings."""
ROOT = ("artifacts", "export", "encode", "reconstruct", "tables")
"""Commands that take `--preset` or `--root`, and no settings."""
ROOT_KEY = "run.root="


@dataclass(frozen=True)
class Given:
    """The preset (name or file), settings and root that a command line or a server's environment names."""

    preset: str = ""
    settings: tuple[str, ...] = ()
    root: str = ""


_given = Given()


@contextlib.contextmanager
def command_context(preset: str, settings: Sequence[str] = (), root: str = "") -> Iterator[None]:
    """Make `command` carry these while the block runs."""
    before = _given
    carry(Given(preset, tuple(settings), root))
    try:
        yield
    finally:
        carry(before)


def carry(new: Given) -> None:
    """Make `command` carry these from now on, as in a server."""
    global _given
    _given = new


def command(*words: str, preset: str = "", cluster: str = "") -> str:
    """A command line for people to paste into a shell.

    Args:
        words: command and its own arguments, such as `run`, `prior`.
        preset: name used where the present command line names none.
        cluster: profile for `--cluster`, '' for the default.
    """
    return shlex.join(["vimctl", *words, *(["--cluster", cluster] if cluster else []), *_context(words[0], preset)])


def _context(name: str, preset: str) -> list[str]:
    """The options and settings that a command needs for the same preset and root."""
    preset, others = _given.preset or preset, [each for each in _given.settings if not each.startswith(ROOT_KEY)]
    if preset.endswith((".yaml", ".yml")):
        preset = os.path.abspath(preset)
    named = [each.removeprefix(ROOT_KEY) for each in _given.settings if each.startswith(ROOT_KEY)]
    root = next(filter(None, [_given.root, *reversed(named), os.environ.get("VIM_ROOT", "")]), "")
    options = ["--preset", preset] if preset else []
    if name in SETTINGS:
        return [*options, *others, *([f"{ROOT_KEY}{io.absolute(root)}"] if root else [])]
    if name in ROOT:
        return ["--root", io.absolute(root)] if root else options
    return []
