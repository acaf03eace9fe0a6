"""Runs that are due at an evaluation: ticks against counting every minute, new checkpoints, pauses, the cursor."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.schedules import due
from pipelines.schedules.due import LATE_S, Cursor, due_runs
from pipelines.schedules.state import ALL, LATEST, SKIP, Schedule
from vim_core.errors import ConfigError

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


START = datetime(2026, 11, 22, 21, 0, tzinfo=UTC).timestamp()
DAY_S = 86_400
seconds = st.integers(0, DAY_S).map(lambda offset: START + offset)
minutes = st.sets(st.integers(0, 59), min_size=1, max_size=4)
hours = st.none() | st.sets(st.integers(0, 23), min_size=1, max_size=5)


def every(minute: set[int], hour: set[int] | None, after: float, now: float) -> list[float]:
    """All minutes in (after, now] that cron names, one by one."""
    found = []
    moment = datetime.fromtimestamp(START, UTC)
    while moment.timestamp() <= now:
        if moment.timestamp() > after and moment.minute in minute and (hour is None or moment.hour in hour):
            found.append(moment.timestamp())
        moment += timedelta(minutes=1)
    return found


def wanted(found: list[float], now: float, missed: str) -> list[float]:
    if missed == LATEST:
        return found[-1:]
    return found if missed == ALL else [tick for tick in found if now - tick <= LATE_S]


@settings(deadline=None)
@given(minutes, hours, seconds, seconds, st.sampled_from([SKIP, LATEST, ALL]))
def test_due_is_what_counting_gives(
    minute: set[int], hour: set[int] | None, one: float, other: float, missed: str
) -> None:
    after, now = sorted((one, other))
    cron = f"{','.join(map(str, sorted(minute)))} {'*' if hour is None else ','.join(map(str, sorted(hour)))} * * *"
    expected = wanted(every(minute, hour, after, now), now, missed)
    found, until = due.due_ticks(cron, "UTC", after, now, missed)
    if missed == ALL and len(expected) > due.BATCH:
        assert found == expected[: due.BATCH]
        assert until == found[-1]
    else:
        assert found == expected
        assert until == now or (len(found) == due.BATCH and until == found[-1])


@settings(deadline=None)
@given(minutes, st.lists(seconds, min_size=2, max_size=9), st.sampled_from([LATEST, ALL]))
def test_no_tick_is_run_twice_however_often_one_looks(minute: set[int], looks: list[float], missed: str) -> None:
    cron = f"{','.join(map(str, sorted(minute)))} * * * *"
    after, found = START, []
    for now in [*sorted(looks), *[max(looks)] * 9]:
        some, after = due.due_ticks(cron, "UTC", after, now, missed)
        found += some
    assert found == sorted(set(found))
    expected = every(minute, None, START, max(looks))
    assert set(found) <= set(expected)
    assert found[-1:] == expected[-1:]
    if missed == ALL:
        assert found == expected


@pytest.mark.parametrize("missed", [SKIP, LATEST, ALL])
def test_a_clock_that_goes_back_runs_nothing_again(missed: str) -> None:
    assert due.due_ticks("* * * * *", "UTC", START + 300, START, missed) == ([], START + 300)


def test_local_time_over_the_end_of_summer() -> None:
    """3 o'clock in Berlin is 1 UTC in summer and 2 UTC in winter."""
    summer = datetime(2026, 10, 23, 12, tzinfo=UTC).timestamp()
    found = [due.next_tick("0 3 * * *", "Europe/Berlin", summer + day * DAY_S) for day in range(3)]
    assert [datetime.fromtimestamp(tick, UTC).hour for tick in found] == [1, 2, 2]


@pytest.mark.parametrize("cron", ["* * * *", "60 * * * *", "every day", "* * * * * *", "@daily", ""])
def test_what_is_no_cron_expression_is_refused(cron: str) -> None:
    with pytest.raises(ConfigError, match="--cron="):
        due.check_cron(cron, "UTC")


def test_time_zones_are_checked() -> None:
    due.check_cron("*/30 * * * *", "Europe/Berlin")
    for name in ("Berlin", "../etc/passwd", ""):
        with pytest.raises(ConfigError, match="--timezone="):
            due.check_cron("*/30 * * * *", name)
