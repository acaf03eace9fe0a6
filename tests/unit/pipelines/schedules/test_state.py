"""Schedules as files: kept, changed, removed, and never outside their folder."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from pipelines.schedules import state
from pipelines.schedules.state import Schedule
from vim_core.errors import ConfigError, DataError

NIGHTLY = Schedule("nightly", "name: x", "smoke", cron="0 3 * * *", since=1.5)


def test_a_schedule_comes_back_as_it_was(anywhere: str) -> None:
    watching = Schedule("watching", "name: x", "smoke", ["prior.steps=9"], checkpoints_of="prior", known=["prior/a/1"])
    state.add(anywhere, NIGHTLY)
    state.add(anywhere, watching)
    assert state.names(anywhere) == ["nightly", "watching"]
    assert state.read_all(anywhere) == ([NIGHTLY, watching], [])
    paused = dataclasses.replace(NIGHTLY, paused=True)
    state.replace(anywhere, paused)
    assert state.read(anywhere, "nightly") == paused
    state.remove(anywhere, "nightly")
    assert state.names(anywhere) == ["watching"]


def test_a_name_is_taken_once(root: str) -> None:
    state.add(root, NIGHTLY)
    with pytest.raises(ConfigError, match="nightly: is scheduled already"):
        state.add(root, dataclasses.replace(NIGHTLY, cron="* * * * *"))
    assert state.read(root, "nightly") == NIGHTLY


@pytest.mark.parametrize("name", ["", "../up", "a/b", ".hidden", "x" * 65, "results"])
def test_names_stay_in_their_folder(root: str, name: str) -> None:
    with pytest.raises(ConfigError, match="names a file"):
        Schedule(name, "name: x", "smoke", cron="* * * * *")
    for act in (state.read, state.remove):
        with pytest.raises(ConfigError, match="names a file"):
            act(root, name)


def test_an_unknown_schedule_names_the_known_ones(root: str) -> None:
    state.add(root, NIGHTLY)
    for act in (state.read, state.remove):
        with pytest.raises(ConfigError, match=r"'weekly': there is none .* known are nightly"):
            act(root, "weekly")


def test_damaged_files_are_told_and_stop_no_other(root: str) -> None:
    state.add(root, NIGHTLY)
    folder = Path(root, "sweeps", "schedules")
    (folder / "broken.json").write_text("{")
    (folder / "odd.json").write_text('{"name": "odd", "colour": "red"}')
    (folder / "moved.json").write_text((folder / "nightly.json").read_text())
    (folder / "results.json").write_text("{}")
    found, wrong = state.read_all(root)
    assert found == [NIGHTLY]
    assert [text.split(":")[0].rsplit("/", 1)[-1] for text in wrong] == ["broken.json", "moved.json", "odd.json"]
    with pytest.raises(DataError, match="not a schedule"):
        state.read(root, "broken")


def test_when_is_one_thing(root: str) -> None:
    for more in ({}, {"cron": "* * * * *", "checkpoints_of": "prior"}):
        with pytest.raises(ConfigError, match="one of --cron and --on-checkpoint"):
            Schedule("x", "name: x", "smoke", **more)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="--on-checkpoint='sample'"):
        Schedule("x", "name: x", "smoke", checkpoints_of="sample")
    with pytest.raises(ConfigError, match="--missed='some'"):
        Schedule("x", "name: x", "smoke", cron="* * * * *", missed="some")
