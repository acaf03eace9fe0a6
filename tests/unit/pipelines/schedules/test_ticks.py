"""Ticks of cron and what becomes of missed ones, against counting every minute."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.schedules import due
from pipelines.schedules.due import LATE_S
from pipelines.schedules.state import ALL, LATEST, SKIP
from vim_core.errors import ConfigError

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
