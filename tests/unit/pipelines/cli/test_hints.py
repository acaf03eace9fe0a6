"""Every hint that is printed runs, in another folder and without the variables of the command that printed it."""

from __future__ import annotations

import ast
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from components.contract import commands
from pipelines import presets
from pipelines.cli import local, run, sweep
from pipelines.cli import main as cli
from pipelines.jobs import submission
from pipelines.jobs.api import RUNNING, JobState
from tests.support.common import REPOSITORY
from tests.support.fake_cluster import FakeCluster

JOB = "vim-own-0123456789ab-a1"
VALUES = {"job_id": JOB, "state.job_id": JOB, "schedule.name": "smoke", "line": "prior.steps=9"}
"""Arguments that are names of jobs, sweeps and settings; all others of hints are components."""
WRAPPERS = {"_command": 1}
"""Functions that pass their words on to `command`, with the number of arguments before these."""


def hints() -> Iterator[tuple[str, list[str], bool]]:
    """Place, words and whether a cluster is named, of each call that makes a hint."""
    for path in sorted(path for root in ("components", "pipelines") for path in (REPOSITORY / root).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
                continue
            name = node.func.id
            if name not in ("command", *WRAPPERS) or any(isinstance(each, ast.Starred) for each in node.args):
                continue
            words = [
                arg.value if isinstance(arg, ast.Constant) else VALUES.get(ast.unparse(arg), "prior")
                for arg in node.args[WRAPPERS.get(name, 0) :]
            ]
            named = name in WRAPPERS or any(keyword.arg == "cluster" for keyword in node.keywords)
            yield f"{path.name}:{node.lineno}", list(map(str, words)), named


HINTS = {(*words, "--cluster" * named): (words, named) for _, words, named in hints()}


@pytest.mark.parametrize(("words", "named"), HINTS.values(), ids=[" ".join(key).strip() for key in HINTS])
def test_a_hint_runs_elsewhere(
    words: list[str], named: bool, flow: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my presets").mkdir()
    file, root = tmp_path / "my presets" / "own.yaml", tmp_path / "my root"
    file.write_text("components: [ingest, quantize, tokenize, prior]\nrun: {tracking_uri: 'off'}\n")
    profile = tmp_path / "my cluster.yaml"
    profile.write_text(f"name: local\nroot: {root}\n")
    (root / "reports" / "own").mkdir(parents=True)
    (root / "reports" / "own" / "report.html").touch()
    cluster, roots = FakeCluster(known={JOB: JobState(JOB, RUNNING)}), list[str]()
    load = presets.load

    def noted(preset: str, overrides: list[str]) -> Any:
        config = load(preset, overrides)
        roots.append(f"{config.preset} {config.run.root} {config.prior.dropout}")
        return config

    def serve(arguments: Any) -> int:
        presets.load(arguments.preset, [word for word in arguments.words if "=" in word])
        return 0

    monkeypatch.setenv("VIM_STATE", str(tmp_path / "state"))
    monkeypatch.setattr(presets, "load", noted)
    monkeypatch.setattr(run, "execute", lambda *_, **__: 0)
    monkeypatch.setattr(submission, "backend", lambda profile: cluster)
    for module, names in ((local, ("serve",)), (sweep, ("show", "set_paused", "unschedule"))):
        for name in names:
            monkeypatch.setattr(module, name, serve)
    for name in ("up", "down"):
        monkeypatch.setattr(local, name, lambda arguments: 0)
    monkeypatch.chdir(tmp_path)
    settings = ["prior.dropout=0.25", "run.root=my root"]
    with commands.command_context("my presets/own.yaml", settings):
        hint = commands.command(*words, preset="unused", cluster=str(profile) if named else "")
    monkeypatch.delenv("VIM_ROOT")
    monkeypatch.chdir("/")
    assert cli.main(shlex.split(hint)[1:]) == 0, hint
    if words[0] in (*commands.SETTINGS, *commands.ROOT):
        own = "own" if words[0] in commands.SETTINGS else "digits"
        dropout = 0.25 if own == "own" else 0.1
        assert set(roots) == {f"{own} {root} {dropout}"}


def test_all_hints_come_from_the_one_function() -> None:
    assert len(HINTS) >= 15
    told = tuple(f"`vimctl {name}" for name in ("run", "report", "artifacts", "ui --", "ui run", "sweep show", "plan"))
    for root in ("components", "pipelines"):
        for path in (REPOSITORY / root).rglob("*.py"):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            raised = [each for each in ast.walk(tree) if isinstance(each, ast.JoinedStr)]
            parts = [part.value for each in raised for part in each.values if isinstance(part, ast.Constant)]
            assert [part for part in parts if any(begin in str(part) for begin in told)] == [], path
