"""Which sweeps are to run now: what the sensor asks at every look, with what it remembers between two of them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from pipelines.schedules import ticks
from pipelines.schedules.files import Schedule

AWAY_S = ticks.LATE_S
"""A longer time between two looks means that no daemon ran, and what came meanwhile was missed."""


@dataclass(frozen=True)
class Fire:
    """One run of a schedule's sweep: the tick it belongs to (seconds since 1970), or the checkpoint."""

    schedule: str
    tick: float
    checkpoint: int = 0
    training: str = ""

    @property
    def key(self) -> str:
        """The same for the same tick or checkpoint, whoever asks and how often: it runs once."""
        if self.checkpoint:
            return f"{self.schedule}/{self.training}/{self.checkpoint}"
        return f"{self.schedule}/{datetime.fromtimestamp(self.tick, UTC):%Y-%m-%dT%H:%MZ}"


@dataclass
class Memory:
    """What has been seen to, by schedule: up to which time, and which checkpoints."""

    until: dict[str, float] = field(default_factory=dict)
    checkpoints: dict[str, list[str]] = field(default_factory=dict)

    @classmethod
    def parse(cls, cursor: str | None) -> Memory:
        """From the sensor's cursor; empty at its first look."""
        return cls(**json.loads(cursor)) if cursor else cls()

    def dump(self) -> str:
        """As the sensor's cursor."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True)


Checkpoints = Callable[[Schedule], Sequence[tuple[str, str, int]] | None]
"""(component, fingerprint, step) of the checkpoints of what a schedule evaluates; None while that cannot be told."""
REMEMBERED = 500
"""So many checkpoints that are gone are still known as seen."""


def due(schedules: Sequence[Schedule], memory: Memory, now: float, checkpoints: Checkpoints) -> list[Fire]:
    """What is to run at `now`, schedule by schedule; `memory` is brought up to date."""
    fires: list[Fire] = []
    for schedule in schedules:
        if schedule.paused:
            continue
        fires += _new(schedule, memory, now, checkpoints) if schedule.checkpoints_of else _ticks(schedule, memory, now)
    names = {schedule.name for schedule in schedules}
    memory.until = _kept(memory.until, names)
    memory.checkpoints = _kept(memory.checkpoints, names)
    return fires


def identity(checkpoint: tuple[str, str, int]) -> str:
    """A checkpoint's name over all trainings."""
    component, training, step = checkpoint
    return f"{component}/{training}/{step}"


def _ticks(schedule: Schedule, memory: Memory, now: float) -> list[Fire]:
    after = max(schedule.since, memory.until.get(schedule.name, 0.0))
    found, memory.until[schedule.name] = ticks.due(schedule.cron, schedule.timezone, after, now, schedule.missed)
    return [Fire(schedule.name, tick) for tick in found]


def _new(schedule: Schedule, memory: Memory, now: float, checkpoints: Checkpoints) -> list[Fire]:
    """Checkpoints that nobody has seen yet; those that came while nobody looked count as missed."""
    there = checkpoints(schedule)
    if there is None:
        return []
    before = memory.checkpoints.get(schedule.name, [])
    seen = {*schedule.known, *before}
    new = [each for each in there if identity(each) not in seen]
    looked = max(schedule.since, memory.until.get(schedule.name, 0.0))
    if now - looked > AWAY_S:
        new = {ticks.SKIP: [], ticks.LATEST: new[-1:], ticks.ALL: new}[schedule.missed]
    named = [identity(each) for each in there]
    memory.checkpoints[schedule.name] = [*[name for name in before if name not in named][-REMEMBERED:], *named]
    memory.until[schedule.name] = now
    return [Fire(schedule.name, now, step, training) for _, training, step in new]


def _kept(found: Mapping[str, Any], names: set[str]) -> dict[str, Any]:
    """Of schedules that are still there; of others nothing is remembered."""
    return {name: value for name, value in found.items() if name in names}
