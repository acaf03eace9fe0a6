"""What the sensor asks for at a look: ticks, new checkpoints, pauses, and what it remembers."""

from __future__ import annotations

import dataclasses

import pytest

from pipelines.schedules.due import LATE_S, Cursor, due_runs
from pipelines.schedules.state import ALL, LATEST, SKIP, Schedule

NOON = 1_795_348_800.0
"""12:00 UTC."""
MINUTELY = Schedule("minutely", "name: x", "smoke", cron="* * * * *", since=NOON)
WATCHING = Schedule("watching", "name: x", "smoke", checkpoints_of="prior", since=NOON, known=["prior/aa/10"])


def keys(schedule: Schedule, cursor: Cursor, now: float, *steps: int) -> list[str]:
    """What a look finds, over a cursor as Dagster keeps it."""
    again = Cursor.parse(cursor.dump())
    found = [
        fire.key for fire in due_runs([schedule], again, now, lambda each: [("prior", "aa", step) for step in steps])
    ]
    cursor.until, cursor.checkpoints = again.until, again.checkpoints
    return found


def test_a_tick_is_asked_for_once_under_its_own_name() -> None:
    cursor = Cursor.parse(None)
    assert keys(MINUTELY, cursor, NOON + 59) == []
    assert keys(MINUTELY, cursor, NOON + 61) == ["minutely/2026-11-22T12:01Z"]
    assert keys(MINUTELY, cursor, NOON + 75) == []
    assert keys(MINUTELY, cursor, NOON + 120) == ["minutely/2026-11-22T12:02Z"]


@pytest.mark.parametrize(
    ("missed", "minutes"),
    [(SKIP, ["12:09", "12:10"]), (LATEST, ["12:10"]), (ALL, [f"12:{n:02d}" for n in range(2, 11)])],
)
def test_ticks_without_a_daemon(missed: str, minutes: list[str]) -> None:
    schedule, cursor = dataclasses.replace(MINUTELY, missed=missed), Cursor()
    keys(schedule, cursor, NOON + 61)
    found = keys(schedule, cursor, NOON + 600 + 30)
    assert found == [f"minutely/2026-11-22T{minute}Z" for minute in minutes]


def test_a_pause_lets_ticks_pass() -> None:
    cursor, paused = Cursor(), dataclasses.replace(MINUTELY, paused=True, missed=ALL)
    assert keys(paused, cursor, NOON + 600) == []
    resumed = dataclasses.replace(paused, paused=False, since=NOON + 630)
    assert keys(resumed, cursor, NOON + 660) == ["minutely/2026-11-22T12:11Z"]


def test_a_schedule_that_is_gone_is_forgotten_and_a_new_one_of_its_name_starts_anew() -> None:
    cursor = Cursor()
    keys(MINUTELY, cursor, NOON + 61)
    due_runs([], cursor, NOON + 90, lambda each: [])
    assert cursor == Cursor()
    again = dataclasses.replace(MINUTELY, since=NOON + 3600, missed=ALL)
    assert keys(again, cursor, NOON + 3600 + 61) == ["minutely/2026-11-22T13:01Z"]


def test_every_new_checkpoint_once() -> None:
    cursor = Cursor()
    assert keys(WATCHING, cursor, NOON + 15, 10) == []
    assert keys(WATCHING, cursor, NOON + 30, 10, 20) == ["watching/aa/20"]
    assert keys(WATCHING, cursor, NOON + 45, 10, 20) == []
    # The training has removed an old one, which comes back in no listing as new.
    assert keys(WATCHING, cursor, NOON + 60, 20, 30, 40) == ["watching/aa/30", "watching/aa/40"]
    assert keys(WATCHING, cursor, NOON + 75, 10, 20, 30, 40) == []


@pytest.mark.parametrize(("missed", "steps"), [(SKIP, []), (LATEST, [40]), (ALL, [20, 30, 40])])
def test_checkpoints_without_a_daemon(missed: str, steps: list[int]) -> None:
    schedule, cursor = dataclasses.replace(WATCHING, missed=missed), Cursor()
    keys(schedule, cursor, NOON + 15, 10)
    assert keys(schedule, cursor, NOON + 15 + LATE_S + 1, 10, 20, 30, 40) == [f"watching/aa/{step}" for step in steps]
    assert keys(schedule, cursor, NOON + 30 + LATE_S + 1, 20, 30, 40, 50) == ["watching/aa/50"]


def test_checkpoints_that_cannot_be_listed_are_asked_for_later() -> None:
    cursor = Cursor()
    assert due_runs([WATCHING], cursor, NOON + 15, lambda each: None) == []
    assert keys(WATCHING, cursor, NOON + 30, 10, 20) == ["watching/aa/20"]


def test_another_training_has_checkpoints_of_its_own() -> None:
    cursor = Cursor()
    keys(WATCHING, cursor, NOON + 15, 10)
    found = due_runs([WATCHING], cursor, NOON + 30, lambda each: [("prior", "bb", 10)])
    assert [run.key for run in found] == ["watching/bb/10"]
