"""Runs of schedules that are due: at cron's ticks or at new checkpoints. Times are seconds since 1970."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice, takewhile

from pipelines.orchestration import history
from pipelines.schedules.state import ALL, LATEST, SKIP, Schedule
from vim_core.errors import ConfigError

TAG = history.SCHEDULE_TAG
LATE_S = 120.0
"""A tick older than this was missed, as was a checkpoint after a longer time between two evaluations of the sensor."""
BATCH = 20
"""Ticks that are run at most at one evaluation; the others follow at the next ones."""
REMEMBERED = 500
"""Number of removed checkpoints that are still remembered as seen."""

Checkpoint = tuple[str, str, int]
"""(component, fingerprint of the training, step)."""
ListCheckpoints = Callable[[Schedule], Sequence[Checkpoint] | None]
"""The checkpoints of the training that a schedule evaluates; None while they cannot be listed."""


@dataclass(frozen=True)
class DueRun:
    """One run of a schedule's sweep: the tick it belongs to, or the checkpoint."""

    schedule: str
    tick: float
    checkpoint: int = 0
    training: str = ""

    @property
    def key(self) -> str:
        """Dagster's run key: the same for the same tick or checkpoint, so that it runs once."""
        if self.checkpoint:
            return f"{self.schedule}/{self.training}/{self.checkpoint}"
        return f"{self.schedule}/{datetime.fromtimestamp(self.tick, UTC):%Y-%m-%dT%H:%MZ}"


@dataclass
class Cursor:
    """The sensor's memory by schedule: the time up to which ticks were handled, and the checkpoints seen."""

    until: dict[str, float] = field(default_factory=dict)
    checkpoints: dict[str, list[str]] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str | None) -> Cursor:
        """From Dagster's cursor; empty at the first evaluation."""
        return cls(**json.loads(text)) if text else cls()

    def dump(self) -> str:
        """The text for Dagster."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True)


def due_runs(
    schedules: Sequence[Schedule], cursor: Cursor, now: float, list_checkpoints: ListCheckpoints
) -> list[DueRun]:
    """The runs that are due at `now`, schedule by schedule; `cursor` is brought up to date."""
    runs: list[DueRun] = []
    for schedule in schedules:
        if schedule.paused:
            continue
        handled = max(schedule.since, cursor.until.get(schedule.name, 0.0))
        if schedule.checkpoints_of:
            runs += _new_checkpoints(schedule, cursor, handled, now, list_checkpoints(schedule))
        else:
            ticks, until = due_ticks(schedule.cron, schedule.timezone, handled, now, schedule.missed)
            cursor.until[schedule.name] = until
            runs += [DueRun(schedule.name, tick) for tick in ticks]
    names = {schedule.name for schedule in schedules}
    cursor.until = {name: time for name, time in cursor.until.items() if name in names}
    cursor.checkpoints = {name: seen for name, seen in cursor.checkpoints.items() if name in names}
    return runs


def checkpoint_name(checkpoint: Checkpoint) -> str:
    """A checkpoint's name, unique over all trainings."""
    return "/".join(map(str, checkpoint))


def _new_checkpoints(
    schedule: Schedule, cursor: Cursor, handled: float, now: float, available: Sequence[Checkpoint] | None
) -> list[DueRun]:
    """Checkpoints that were not seen before; those that came while no daemon ran count as missed."""
    if available is None:
        return []
    before = cursor.checkpoints.get(schedule.name, [])
    seen = {*schedule.known, *before}
    new = [checkpoint for checkpoint in available if checkpoint_name(checkpoint) not in seen]
    if now - handled > LATE_S:
        new = {SKIP: [], LATEST: new[-1:], ALL: new}[schedule.missed]
    names = [checkpoint_name(checkpoint) for checkpoint in available]
    cursor.checkpoints[schedule.name] = [*[name for name in before if name not in names][-REMEMBERED:], *names]
    cursor.until[schedule.name] = now
    return [DueRun(schedule.name, now, step, training) for _, training, step in new]


def check_cron(cron: str, timezone: str) -> None:
    """Raise `ConfigError` for an invalid cron expression or time zone."""
    import zoneinfo

    from dagster._utils.schedules import is_valid_cron_string

    if len(cron.split()) != 5 or not is_valid_cron_string(cron):
        raise ConfigError(f"--cron={cron!r}: write minute, hour, day, month and weekday, such as '*/30 * * * *'")
    try:
        zoneinfo.ZoneInfo(timezone)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError) as error:
        rule = "is no time zone; write one such as Europe/Berlin or UTC"
        raise ConfigError(f"--timezone={timezone!r}: {rule}") from error


def due_ticks(cron: str, timezone: str, after: float, now: float, missed: str) -> tuple[list[float], float]:
    """Ticks later than `after` that are to run at `now`, oldest first, and the time up to which all are handled.

    Of ticks that are more than `LATE_S` old, `skip` runs none and `all` every one; `latest` runs the last tick of all.
    """
    if now <= after:
        return [], after
    if missed == ALL:
        ticks = list(islice(_ticks(cron, timezone, after, now), BATCH))
        return ticks, ticks[-1] if len(ticks) == BATCH else now
    if missed == LATEST:
        from dagster._utils.schedules import reverse_cron_string_iterator

        past = (tick.timestamp() for tick in reverse_cron_string_iterator(now, cron, timezone))
        last = next(tick for tick in past if tick <= now)
        return ([last] if last > after else []), now
    # ticks are whole seconds, and one exactly LATE_S old is not late
    return list(_ticks(cron, timezone, max(after, now - LATE_S - 0.5), now, now - LATE_S)), now


def next_tick(cron: str, timezone: str, after: float) -> float:
    """The first tick later than `after`."""
    return next(_ticks(cron, timezone, after, float("inf")))


def _ticks(cron: str, timezone: str, after: float, until: float, earliest: float = float("-inf")) -> Iterator[float]:
    """Ticks in (after, until], none before `earliest`."""
    from dagster._utils.schedules import cron_string_iterator

    ticks = (tick.timestamp() for tick in cron_string_iterator(after, cron, timezone))
    return (tick for tick in takewhile(lambda tick: tick <= until, ticks) if tick > after and tick >= earliest)
