"""`vimctl sweep schedule|list|pause|resume|unschedule`: sweeps that run by themselves."""

from __future__ import annotations

import dataclasses
import os
import sys
import time
from argparse import Namespace
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pipelines import presets
from vim_core.errors import ConfigError

if TYPE_CHECKING:
    from argparse import ArgumentParser

    from pipelines.schedules.files import Schedule

Kind = Callable[[Any, str, object, str], "ArgumentParser"]


def grammar(kinds: Any, kind: Kind) -> None:
    """The words after `vimctl sweep` that concern schedules; `kind` makes a subcommand."""
    about = "run a sweep at cron's ticks or at every new checkpoint, by the daemon of `vimctl ui`"
    _schedule(kind(kinds, "schedule", schedule, about))
    _where(kind(kinds, "list", show, "sweeps and schedules of a root: next tick, last result"))
    for name, act, text in (
        ("pause", pause, "let a schedule's ticks pass until it is resumed"),
        ("resume", resume, "let a paused schedule run again, from now on"),
        ("unschedule", unschedule, "forget a schedule; what its sweeps made stays"),
    ):
        made = kind(kinds, name, act, text)
        made.add_argument("schedule", metavar="NAME", help="the schedule's name, as `vimctl sweep list` shows it")
        _where(made)


def schedule(arguments: Namespace) -> int:
    """`vimctl sweep schedule`. Raises `ConfigError` for a sweep, a time or a name that is not in order."""
    from pipelines.jobs import profile
    from pipelines.schedules import files, firing, ticks
    from pipelines.sweeps import spec

    sweep = spec.load(arguments.sweep)
    preset = arguments.preset or sweep.preset or presets.default()
    config = presets.load(preset, arguments.words)
    if arguments.cron:
        ticks.check(arguments.cron, arguments.timezone)
    if arguments.cluster:
        profile.load(arguments.cluster)
    asked = files.Schedule(
        name=arguments.name or sweep.name,
        sweep=spec.to_yaml(sweep),
        preset=_absolute(preset),
        overrides=[word for word in arguments.words if not word.startswith("run.root=")],
        cron=arguments.cron,
        timezone=arguments.timezone,
        checkpoints_of=arguments.on_checkpoint,
        missed=arguments.missed,
        cluster=_absolute(arguments.cluster),
    )
    firing.sweep_of(asked)
    files.add(config.run.root, _from_now(asked, config.run.root))
    sys.stdout.write(f"{asked.name}: {sweep.name} at {asked.when}{_next(asked)}; {_daemon(config.run.root)}\n")
    return 0


def show(arguments: Namespace) -> int:
    """`vimctl sweep list`."""
    from pipelines.cli.commands import console
    from pipelines.schedules import listing

    config = presets.load(arguments.preset or presets.default(), arguments.words)
    listing.show(config, console())
    return 0


def pause(arguments: Namespace) -> int:
    """`vimctl sweep pause`. Raises `ConfigError` for one that is paused already, or unknown."""
    return _switch(arguments, True)


def resume(arguments: Namespace) -> int:
    """`vimctl sweep resume`. Raises `ConfigError` for one that is not paused, or unknown."""
    return _switch(arguments, False)


def unschedule(arguments: Namespace) -> int:
    """`vimctl sweep unschedule`. Raises `ConfigError` for an unknown one."""
    from pipelines.schedules import files

    files.remove(_root(arguments), arguments.schedule)
    sys.stdout.write(f"{arguments.schedule}: no longer scheduled; what it made stays\n")
    return 0


def _schedule(made: ArgumentParser) -> None:
    made.add_argument("sweep", metavar="FILE|NAME", help="a YAML file, or the name of a sweep of the package")
    when = made.add_mutually_exclusive_group(required=True)
    when.add_argument("--cron", default="", help="minute, hour, day, month and weekday, such as '*/30 * * * *'")
    when.add_argument(
        "--on-checkpoint", default="", metavar="COMPONENT", choices=("prior",), help="evaluate every new one of: prior"
    )
    made.add_argument("--timezone", default="UTC", help="cron's, such as Europe/Berlin (default: %(default)s)")
    made.add_argument(
        "--missed", default="skip", choices=("skip", "latest", "all"),
        help="of ticks that came while no daemon ran, run none, the last or each (default: %(default)s)",
    )  # fmt: skip
    made.add_argument("--cluster", default="", help="run it as a job of this cluster, not on the daemon's machine")
    made.add_argument("--name", default="", help="the schedule's own name (default: the sweep's)")
    _where(made)


def _where(made: ArgumentParser) -> None:
    made.add_argument("words", nargs="*", metavar="key=value …", help="settings by dotted key, such as run.root=…")
    made.add_argument("--preset", default="", help="a preset's name or a YAML file")


def _switch(arguments: Namespace, paused: bool) -> int:
    from pipelines.schedules import files

    root = _root(arguments)
    found = files.read(root, arguments.schedule)
    if found.paused is paused:
        raise ConfigError(f"schedule {found.name!r}: is {'paused' if paused else 'not paused'} already")
    changed = dataclasses.replace(found, paused=paused)
    files.replace(root, changed if paused else _from_now(changed, root))
    said = "paused; `vimctl sweep resume` lets it run again" if paused else f"runs again{_next(found)}"
    sys.stdout.write(f"{found.name}: {said}\n")
    return 0


def _from_now(asked: Schedule, root: str) -> Schedule:
    """The same schedule, which nothing concerns that was there before now."""
    known: list[str] = []
    if asked.checkpoints_of:
        from pipelines.schedules import due, firing
        from pipelines.sweeps import checkpoints

        known = [due.identity(each) for each in checkpoints.available(firing.config_of(asked, root))]
    return dataclasses.replace(asked, since=time.time(), known=known)


def _next(asked: Schedule) -> str:
    from pipelines.schedules import listing, ticks

    if not asked.cron:
        return ""
    return f", next {listing.moment(ticks.following(asked.cron, asked.timezone, time.time()))}"


def _daemon(root: str) -> str:
    return f"it runs while `vimctl ui run.root={root}` or another daemon does"


def _absolute(name: str) -> str:
    return os.path.abspath(name) if name.endswith((".yaml", ".yml")) else name


def _root(arguments: Namespace) -> str:
    return presets.load(arguments.preset or presets.default(), arguments.words).run.root
