"""`vimctl sweep schedule|list|pause|resume|unschedule`: sweeps that run automatically."""

from __future__ import annotations

import dataclasses
import time
from argparse import Namespace
from typing import TYPE_CHECKING

from pipelines import presets
from pipelines.cli import common
from vim_core.errors import ConfigError

if TYPE_CHECKING:
    from pipelines.cli.common import Subparsers
    from pipelines.schedules.state import Schedule


def add_commands(subparsers: Subparsers) -> None:
    """Add the commands below `vimctl sweep` that concern schedules."""
    scheduling = common.subcommand(
        subparsers, "schedule", schedule,
        "run a sweep at cron's ticks or at every new checkpoint, by the daemon of `vimctl ui`",
        {
            "sweep schedule digits --cron '0 3 * * *' --missed latest": "every night; once if it was off",
            "sweep schedule digits --on-checkpoint prior": "at every new checkpoint of a training",
        },
    )  # fmt: skip
    scheduling.add_argument("sweep", metavar="FILE|NAME", help="a YAML file, or the name of a sweep of the package")
    when = scheduling.add_mutually_exclusive_group(required=True)
    when.add_argument("--cron", default="", help="minute, hour, day, month and weekday, such as '*/30 * * * *'")
    when.add_argument(
        "--on-checkpoint", default="", metavar="COMPONENT", choices=("prior",), help="evaluate every new one of: prior"
    )
    scheduling.add_argument("--timezone", default="UTC", help="cron's, such as Europe/Berlin (default: %(default)s)")
    scheduling.add_argument(
        "--missed", default="skip", choices=("skip", "latest", "all"),
        help="of ticks that came while no daemon ran, run none, the last or each (default: %(default)s)",
    )  # fmt: skip
    scheduling.add_argument(
        "--cluster", default="", help="run it as a job of this cluster, not on the daemon's machine"
    )
    scheduling.add_argument("--name", default="", help="the schedule's own name (default: the sweep's)")
    common.add_settings(scheduling, default="the sweep's own")
    listing = common.subcommand(
        subparsers, "list", show, "print sweeps and schedules of a root: next tick, last result",
        {"sweep list": "of the default preset's root", "sweep list run.root=gs://bucket/vim": "of another root"},
    )  # fmt: skip
    common.add_settings(listing)
    for name, action, summary, more in (
        ("pause", pause, "pause a schedule: skip its ticks until it is resumed", ("sweep resume digits", "go on")),
        ("resume", resume, "resume a paused schedule, from now on", ("sweep list", "when the next tick is")),
        ("unschedule", unschedule, "remove a schedule; its results stay", ("sweep list", "what is left")),
    ):
        examples = {f"sweep {name} digits": "the schedule of this name", more[0]: more[1]}
        parser = common.subcommand(subparsers, name, action, summary, examples)
        parser.add_argument("schedule", metavar="NAME", help="the schedule's name, as `vimctl sweep list` shows it")
        common.add_settings(parser)


def schedule(arguments: Namespace) -> int:
    """`vimctl sweep schedule`. Raises `ConfigError` for an invalid sweep, time or name."""
    from pipelines.jobs import profile
    from pipelines.schedules import due, runner, state
    from pipelines.sweeps import spec

    sweep = spec.load(arguments.sweep)
    preset = arguments.preset or sweep.preset or presets.default()
    root = presets.load(preset, arguments.words).run.root
    if arguments.cron:
        due.check_cron(arguments.cron, arguments.timezone)
    if arguments.cluster:
        profile.load(arguments.cluster)
    added = state.Schedule(
        name=arguments.name or sweep.name,
        sweep=spec.to_yaml(sweep),
        preset=presets.absolute(preset),
        overrides=[word for word in arguments.words if not word.startswith("run.root=")],
        cron=arguments.cron,
        timezone=arguments.timezone,
        checkpoints_of=arguments.on_checkpoint,
        missed=arguments.missed,
        cluster=presets.absolute(arguments.cluster),
    )
    runner.resolve_sweep(added)
    state.add(root, _starting_now(added, root))
    daemon = f"it runs while `vimctl ui run.root={root}` or another daemon does"
    common.print_line(f"{added.name}: {sweep.name} at {added.when}{_next_tick(added)}; {daemon}")
    return 0


def show(arguments: Namespace) -> int:
    """`vimctl sweep list`."""
    from pipelines.schedules import listing

    listing.show(presets.load(arguments.preset, arguments.words), common.console())
    return 0


def pause(arguments: Namespace) -> int:
    """`vimctl sweep pause`. Raises `ConfigError` for one that is paused already, or unknown."""
    return _set_paused(arguments, True)


def resume(arguments: Namespace) -> int:
    """`vimctl sweep resume`. Raises `ConfigError` for one that is not paused, or unknown."""
    return _set_paused(arguments, False)


def unschedule(arguments: Namespace) -> int:
    """`vimctl sweep unschedule`. Raises `ConfigError` for an unknown one."""
    from pipelines.schedules import state

    state.remove(presets.load(arguments.preset, arguments.words).run.root, arguments.schedule)
    common.print_line(f"{arguments.schedule}: no longer scheduled; its results stay")
    return 0


def _set_paused(arguments: Namespace, paused: bool) -> int:
    from pipelines.schedules import state

    root = presets.load(arguments.preset, arguments.words).run.root
    schedule = state.read(root, arguments.schedule)
    if schedule.paused is paused:
        raise ConfigError(f"schedule {schedule.name!r}: is {'paused' if paused else 'not paused'} already")
    changed = dataclasses.replace(schedule, paused=paused)
    state.replace(root, changed if paused else _starting_now(changed, root))
    effect = "paused; `vimctl sweep resume` lets it run again" if paused else f"runs again{_next_tick(schedule)}"
    common.print_line(f"{schedule.name}: {effect}")
    return 0


def _starting_now(schedule: Schedule, root: str) -> Schedule:
    """Return the same schedule, with ticks and checkpoints before now ignored."""
    known: list[str] = []
    if schedule.checkpoints_of:
        from pipelines.schedules import due, runner
        from pipelines.sweeps import checkpoints

        known = [
            due.checkpoint_name(checkpoint) for checkpoint in checkpoints.available(runner.load_config(schedule, root))
        ]
    return dataclasses.replace(schedule, since=time.time(), known=known)


def _next_tick(schedule: Schedule) -> str:
    from pipelines.schedules import due, listing

    if not schedule.cron:
        return ""
    return f", next {listing.format_time(due.next_tick(schedule.cron, schedule.timezone, time.time()))}"
