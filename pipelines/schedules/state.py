"""Schedules as files `<root>/sweeps/schedules/<name>.json`, which the daemon reads at every evaluation."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field

from components.artifacts import store
from components.contract.commands import command
from pipelines import presets
from pipelines.sweeps import spec
from pipelines.sweeps.spec import CHECKPOINT, NAME, SCHEDULES, SWEEPS, Sweep
from vim_core.config import PipelineConfig
from vim_core.config.decode import decode
from vim_core.config.fields import one_of, require
from vim_core.errors import ConfigError, DataError
from vim_core.storage import io
from vim_core.text import hint

RESERVED = "results"
"""A sweep named `schedules` would keep its results under this name."""
CHECKPOINTS = ("prior",)
"""Components whose checkpoints a schedule may wait for."""
SKIP, LATEST, ALL = "skip", "latest", "all"


@dataclass(frozen=True)
class Schedule:
    """The times at which a sweep runs, and its subject.

    `sweep` is the sweep as YAML, `preset` and `overrides` what it evaluates, without the root. Either `cron` (in
    `timezone`) or `checkpoints_of` sets the times; `missed` is the rule for ticks or checkpoints that came while no
    daemon ran: `skip`, `latest` or `all` of them run. Ticks up to `since` (seconds since 1970) and checkpoints in
    `known` are ignored.
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
        one_of("--missed", self.missed, (SKIP, LATEST, ALL))
        rule = "give one of --cron and --on-checkpoint"
        require(bool(self.cron) != bool(self.checkpoints_of), "--cron", self.cron, rule)
        if self.checkpoints_of:
            one_of("--on-checkpoint", self.checkpoints_of, CHECKPOINTS)

    @property
    def when(self) -> str:
        """Cron expression with time zone, or the training whose checkpoints are evaluated."""
        if self.checkpoints_of:
            return f"every new checkpoint of {self.checkpoints_of}"
        return self.cron if self.timezone == "UTC" else f"{self.cron} {self.timezone}"


def load_config(schedule: Schedule, root: str) -> PipelineConfig:
    """The settings that a schedule evaluates. Raises `ConfigError` if the changed preset no longer fits."""
    return presets.load(schedule.preset, [*schedule.overrides, f"run.root={root}"])


def resolve_sweep(schedule: Schedule, checkpoint: int = 0) -> Sweep:
    """The schedule's sweep, of one checkpoint where one is given: then its name ends in the step, as its results do.

    Raises:
        ConfigError: the sweep is invalid, or chooses checkpoints itself.
    """
    sweep = spec.parse(schedule.sweep, schedule.name)
    if not schedule.checkpoints_of:
        return sweep
    if CHECKPOINT in {*sweep.settings, *sweep.varying}:
        raise ConfigError(
            f"--on-checkpoint={schedule.checkpoints_of}: the sweep {sweep.name} chooses checkpoints itself"
        )
    if not checkpoint:
        return sweep
    settings = {**sweep.settings, CHECKPOINT: checkpoint}
    return dataclasses.replace(sweep, name=f"{sweep.name}-{checkpoint:08d}", settings=settings)


def check_name(name: str) -> None:
    """Raise `ConfigError` for a name that could not be a file's."""
    rule = "must be letters, digits, '.', '_' or '-', 64 at most: it names a file"
    require(bool(NAME.fullmatch(name)) and name != RESERVED, "--name", name, rule)


def folder(root: str) -> str:
    """The folder of a root's schedules."""
    return io.join(root, SWEEPS, SCHEDULES)


def add(root: str, schedule: Schedule) -> None:
    """Write a new schedule. Raises `ConfigError` where one of this name exists."""
    with store.guarded(root):
        io.make_folder(folder(root))
        created = io.create_exclusive(_uri(root, schedule.name), _dump(schedule))
    if not created:
        raise ConfigError(
            f"--name={schedule.name}: is scheduled already; give another name, or remove "
            f"it with `{command('sweep', 'unschedule', schedule.name)}`"
        )


def replace(root: str, schedule: Schedule) -> None:
    """Replace the schedule of the same name atomically."""
    with store.guarded(root):
        io.write_bytes(_uri(root, schedule.name), _dump(schedule))


def remove(root: str, name: str) -> None:
    """Remove a schedule. Raises `ConfigError` where there is none of this name."""
    read(root, name)
    with store.guarded(root):
        io.remove_tree(_uri(root, name))


def read(root: str, name: str) -> Schedule:
    """The schedule of this name. Raises `ConfigError` where there is none, `DataError` for a damaged file."""
    check_name(name)
    schedule = _read(root, name)
    if schedule is None:
        raise ConfigError(f"schedule {name!r}: there is none in {root}; {hint(name, names(root))}")
    return schedule


def names(root: str) -> list[str]:
    """The schedules of a root, sorted."""
    with store.guarded(root):
        stems = [entry.removesuffix(".json") for entry in io.list_names(folder(root)) if entry.endswith(".json")]
    return [name for name in stems if NAME.fullmatch(name) and name != RESERVED]


def read_all(root: str) -> tuple[list[Schedule], list[str]]:
    """All schedules of a root by name, and the errors of damaged files, which stop no other schedule."""
    schedules, errors = [], []
    for name in names(root):
        try:
            schedule = _read(root, name)
        except DataError as error:
            errors.append(str(error))
            continue
        if schedule is not None:  # else it was removed meanwhile
            schedules.append(schedule)
    return schedules, errors


def _read(root: str, name: str) -> Schedule | None:
    uri = _uri(root, name)
    data = store.read_bytes(root, uri)
    if data is None:
        return None
    try:
        schedule = decode(Schedule, json.loads(data), defaults=True)
    except (ValueError, ConfigError) as error:
        raise DataError(f"{uri}: not a schedule ({error}); remove the file and schedule the sweep again") from error
    if schedule.name != name:
        raise DataError(f"{uri}: is of {schedule.name!r}; rename it back or remove it")
    return schedule


def _uri(root: str, name: str) -> str:
    return io.join(folder(root), f"{name}.json")


def _dump(schedule: Schedule) -> bytes:
    return (json.dumps(dataclasses.asdict(schedule), indent=2) + "\n").encode()
