"""When a cron schedule is due, and what becomes of ticks that nobody saw. Times are seconds since 1970."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice, takewhile

from vim_core.errors import ConfigError

SKIP, LATEST, ALL = "skip", "latest", "all"
MISSED = (SKIP, LATEST, ALL)
LATE_S = 120.0
"""A tick older than this was missed: the daemon looks several times a minute."""
BATCH = 20
"""So many runs are asked for at a look; the others follow at the next ones."""


def check(cron: str, timezone: str) -> None:
    """Raises `ConfigError` for what is no cron expression or no time zone."""
    import zoneinfo

    from dagster._utils.schedules import is_valid_cron_string

    if len(cron.split()) != 5 or not is_valid_cron_string(cron):
        raise ConfigError(f"--cron={cron!r}: write minute, hour, day, month and weekday, such as '*/30 * * * *'")
    try:
        zoneinfo.ZoneInfo(timezone)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError) as error:
        raise ConfigError(
            f"--timezone={timezone!r}: is no time zone; write one such as Europe/Berlin or UTC"
        ) from error


def due(cron: str, timezone: str, after: float, now: float, missed: str) -> tuple[list[float], float]:
    """Ticks later than `after` that are to run at `now`, oldest first, and up to when everything has been seen to.

    Of ticks that are more than `LATE_S` old, `skip` runs none and `all` every one; `latest` runs the last tick of all.
    """
    if now <= after:
        return [], after
    if missed == ALL:
        found = list(islice(_between(cron, timezone, after, now), BATCH))
        return found, found[-1] if len(found) == BATCH else now
    if missed == LATEST:
        last = previous(cron, timezone, now)
        return ([last] if last > after else []), now
    # Ticks are whole seconds and the border itself is not late.
    return list(_between(cron, timezone, max(after, now - LATE_S - 0.5), now, now - LATE_S)), now


def following(cron: str, timezone: str, after: float) -> float:
    """The first tick later than `after`."""
    return next(_between(cron, timezone, after, float("inf")))


def previous(cron: str, timezone: str, until: float) -> float:
    """The last tick at or before `until`."""
    from dagster._utils.schedules import reverse_cron_string_iterator

    found = (tick.timestamp() for tick in reverse_cron_string_iterator(until, cron, timezone))
    return next(tick for tick in found if tick <= until)


def _between(cron: str, timezone: str, after: float, until: float, earliest: float = float("-inf")) -> Iterator[float]:
    """Ticks in (after, until], none before `earliest`."""
    from dagster._utils.schedules import cron_string_iterator

    found = (tick.timestamp() for tick in cron_string_iterator(after, cron, timezone))
    return (tick for tick in takewhile(lambda tick: tick <= until, found) if tick > after and tick >= earliest)
