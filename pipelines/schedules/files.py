"""Schedules as files `<root>/sweeps/schedules/<name>.json`, which the daemon reads at every look."""

from __future__ import annotations

import dataclasses
import json
import re
from dataclasses import dataclass, field

from components.artifacts import store
from pipelines.schedules.ticks import MISSED, SKIP
from vim_core.config.fields import one_of, require
from vim_core.errors import ConfigError, DataError
from vim_core.storage import io

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
TAKEN = "results"
"""A sweep named `schedules` would keep its results under this name."""
CHECKPOINTS = ("prior",)
"""Trainings whose checkpoints can be waited for."""


@dataclass(frozen=True)
class Schedule:
    """When a sweep runs and on what.

    `sweep` is the sweep as YAML, `preset` and `overrides` what it evaluates, without the root. Either `cron` (in
    `timezone`) or `checkpoints_of` says when; `missed` what becomes of ticks or checkpoints that came while no daemon
    ran. Nothing up to `since` (seconds since 1970) and none of the checkpoints in `known` concerns it.
    """

    name: str
    sweep: str
    preset: str
    overrides: list[str] = field(default_factory=list)
    cron: str = ""
    timezone: str = "UTC"
    checkpoints_of: str = ""
    missed: str = SKIP
    cluster: str = ""
    paused: bool = False
    since: float = 0.0
    known: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        check_name(self.name)
        one_of("--missed", self.missed, MISSED)
        rule = "give one of --cron and --on-checkpoint"
        require(bool(self.cron) != bool(self.checkpoints_of), "--cron", self.cron, rule)
        if self.checkpoints_of:
            one_of("--on-checkpoint", self.checkpoints_of, CHECKPOINTS)

    @property
    def when(self) -> str:
        """When it runs, in words."""
        if self.checkpoints_of:
            return f"every new checkpoint of {self.checkpoints_of}"
        return self.cron if self.timezone == "UTC" else f"{self.cron} {self.timezone}"


def check_name(name: str) -> None:
    """Raises `ConfigError` for a name that could not be a file's."""
    rule = "must be letters, digits, '.', '_' or '-', 64 at most: it names a file"
    require(bool(NAME.fullmatch(name)) and name != TAKEN, "--name", name, rule)


def folder(root: str) -> str:
    """Where the schedules of a root lie."""
    return io.join(root, "sweeps", "schedules")


def add(root: str, schedule: Schedule) -> None:
    """Keep a new schedule. Raises `ConfigError` where one of this name is there."""
    with store.guarded(root):
        io.make_folder(folder(root))
        made = io.create_exclusive(_uri(root, schedule.name), _dump(schedule))
    if not made:
        raise ConfigError(
            f"--name={schedule.name}: is scheduled already; give another name, or `vimctl sweep unschedule` it first"
        )


def replace(root: str, schedule: Schedule) -> None:
    """Keep a changed schedule in the place of the one of its name, as one act."""
    with store.guarded(root):
        io.write_bytes(_uri(root, schedule.name), _dump(schedule))


def remove(root: str, name: str) -> None:
    """Forget a schedule. Raises `ConfigError` where there is none of this name."""
    read(root, name)
    with store.guarded(root):
        io.remove_tree(_uri(root, name))


def read(root: str, name: str) -> Schedule:
    """The schedule of this name. Raises `ConfigError` where there is none, `DataError` for a damaged file."""
    check_name(name)
    found = _read(root, name)
    if found is None:
        known = ", ".join(names(root)) or "none"
        raise ConfigError(f"schedule {name!r}: there is none in {root}; known are {known}")
    return found


def names(root: str) -> list[str]:
    """The schedules of a root, sorted."""
    with store.guarded(root):
        found = [entry.removesuffix(".json") for entry in io.list_names(folder(root)) if entry.endswith(".json")]
    return [name for name in found if NAME.fullmatch(name) and name != TAKEN]


def everything(root: str) -> tuple[list[Schedule], list[str]]:
    """All schedules of a root by name, and what is wrong with files that are none: one of them stops no other."""
    found, wrong = [], []
    for name in names(root):
        try:
            schedule = _read(root, name)
        except DataError as error:
            wrong.append(str(error))
            continue
        if schedule is not None:  # else it was removed meanwhile
            found.append(schedule)
    return found, wrong


def _read(root: str, name: str) -> Schedule | None:
    uri = _uri(root, name)
    with store.guarded(root):
        try:
            data = io.read_bytes(uri)
        except FileNotFoundError:
            return None
    try:
        found = Schedule(**json.loads(data))
    except (TypeError, ValueError, ConfigError) as error:
        raise DataError(f"{uri}: not a schedule ({error}); remove the file and schedule the sweep again") from error
    if found.name != name:
        raise DataError(f"{uri}: is of {found.name!r}; rename it back or remove it")
    return found


def _uri(root: str, name: str) -> str:
    return io.join(folder(root), f"{name}.json")


def _dump(schedule: Schedule) -> bytes:
    return (json.dumps(dataclasses.asdict(schedule), indent=2) + "\n").encode()
