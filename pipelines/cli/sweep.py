"""`vimctl sweep`: grids of sampling and scoring settings over a trained preset, evaluated now or on a schedule."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import time
from argparse import Namespace
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from components.contract.commands import command
from pipelines import presets
from pipelines.cli import common
from vim_core.errors import ConfigError, DataError
from vim_core.storage import io

if TYPE_CHECKING:
    from pipelines.schedules.state import Schedule
    from pipelines.sweeps.spec import Sweep
    from vim_core.config import PipelineConfig

NEVER = "–"


def add_commands(subparsers: common.Subparsers) -> None:
    """Add `vimctl sweep`."""
    kinds = common.group(
        subparsers, "sweep", "evaluate a trained preset over a grid of sampling and scoring settings",
        ("sweep run digits", "guidance, temperature, acceptance: table, Pareto plot, the best"),
        ("sweep schedule digits --cron '0 3 * * *'", "every night"),
        ("sweep show digits", "points, figures and the best again"),
    )  # fmt: skip
    running = common.subcommand(
        kinds, "run", run, "evaluate every point of a sweep; what exists already is reused",
        ("sweep run digits", "the sweep that ships with the package, on its own preset"),
        ("sweep run mine.yaml --preset smoke", "any file, on another preset"),
        ("sweep run digits run.root=gs://bucket/vim", "where the trained models lie"),
    )  # fmt: skip
    scheduling = common.subcommand(
        kinds, "schedule", schedule,
        "run a sweep at cron's ticks or at every new checkpoint, by the daemon of `vimctl ui`",
        ("sweep schedule digits --cron '0 3 * * *' --missed latest", "every night; once if it was off"),
        ("sweep schedule digits --on-checkpoint prior", "at every new checkpoint of a training"),
    )  # fmt: skip
    for parser in (running, scheduling):
        parser.add_argument("sweep", metavar="FILE|NAME", help="a YAML file, or the name of a sweep of the package")
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
    listing = common.subcommand(
        kinds, "list", print_schedules, "print sweeps and schedules of a root: next tick, last result",
        ("sweep list", "of the default preset's root"),
        ("sweep list run.root=gs://bucket/vim", "of another root"),
    )  # fmt: skip
    common.add_settings(listing)
    for name, action, summary, example in (
        ("pause", set_paused, "pause a schedule: skip its ticks until it is resumed", ("sweep resume digits", "go on")),
        ("resume", set_paused, "resume a paused schedule, from now on", ("sweep list", "when the next tick is")),
        ("unschedule", unschedule, "remove a schedule; its results stay", ("sweep list", "what is left")),
    ):
        parser = common.subcommand(
            kinds, name, action, summary, (f"sweep {name} digits", "the schedule of this name"), example
        )
        parser.set_defaults(paused=name == "pause")
        parser.add_argument("schedule", metavar="NAME", help="the schedule's name, as `vimctl sweep list` shows it")
        common.add_settings(parser)
    showing = common.subcommand(
        kinds, "show", show, "print the points of a sweep with their figures, the best marked",
        ("sweep show digits", "a table"),
        ("sweep show digits --json", "results.json, for programs"),
    )  # fmt: skip
    showing.add_argument("sweep", metavar="NAME", help="the sweep's name, as its folder below <root>/sweeps")
    showing.add_argument("--json", action="store_true", help="print results.json")
    for parser in (running, scheduling, showing):
        common.add_settings(parser, default="the sweep's own")


def run(arguments: Namespace) -> int:
    """`vimctl sweep run`: 0 when every point was evaluated, 1 when some failed."""
    from pipelines.sweeps import spec

    sweep = spec.load(arguments.sweep)
    return evaluate(sweep, presets.load(arguments.preset or sweep.preset or presets.default(), arguments.words), {})


def evaluate(sweep: Sweep, config: PipelineConfig, tags: Mapping[str, str]) -> int:
    """Run a sweep and show its results; 0 when every point was evaluated, 1 when some failed."""
    from components.tracking.progress import progress_on
    from pipelines.sweeps import runner, summary

    console = common.console()
    common.configure_logging(console)
    summary.print_start(sweep, config, console)
    done = runner.run(sweep, config, progress_on(console), tags)
    summary.print_results(done.results, done.folder, console)
    if done.failed:
        sys.stderr.write(f"vimctl: {done.failed} of {done.total} points failed; the same command tries them again\n")
    return int(bool(done.failed))


def show(arguments: Namespace) -> int:
    """`vimctl sweep show`. Raises `DataError` for a sweep that was not run in this root."""
    from pipelines.sweeps import results as sweeps
    from pipelines.sweeps import summary

    overrides = common.only_overrides(arguments.words)
    root = presets.load(arguments.preset or presets.default(), overrides).run.root
    results = sweeps.read(root, arguments.sweep)
    if results is None:
        known = ", ".join(sweeps.names(root)) or "none"
        raise DataError(f"sweep {arguments.sweep!r}: not run in {root}, where there are: {known}")
    if arguments.json:
        common.print_line(json.dumps(results, indent=2))
    else:
        summary.print_results(results, sweeps.folder(root, arguments.sweep), common.console())
    return 0


def schedule(arguments: Namespace) -> int:
    """`vimctl sweep schedule`. Raises `ConfigError` for a sweep that is invalid or does not suit, a time or a name."""
    from pipelines.jobs import profile
    from pipelines.schedules import due, state
    from pipelines.sweeps import spec
    from pipelines.sweeps.check import check_sweep

    sweep = spec.load(arguments.sweep)
    preset = arguments.preset or sweep.preset or presets.default()
    config = presets.load(preset, arguments.words)
    check_sweep(sweep, config)
    root = config.run.root
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
    state.resolve_sweep(added)
    state.add(root, _starting_now(added, root))
    daemon = f"it runs while `{command('ui', preset=preset)}` or another daemon does"
    common.print_line(f"{added.name}: {sweep.name} at {added.when}{_next_tick(added)}; {daemon}")
    return 0


def print_schedules(arguments: Namespace) -> int:
    """`vimctl sweep list`: print sweeps, schedules, damaged files, and whether a daemon evaluates the schedules."""
    from rich.table import Table

    from pipelines.schedules import due
    from pipelines.schedules import state as scheduling
    from pipelines.sweeps import results as sweeps

    config, console = presets.load(arguments.preset, arguments.words), common.console()
    root = config.run.root
    schedules, errors = scheduling.read_all(root)
    table = Table("sweep", "points", "failed", box=None, pad_edge=False, header_style="bold")
    table.add_column("page", overflow="fold")
    for name in sweeps.names(root):
        counts = (sweeps.read(root, name) or {}).get("counts", {})
        page = io.absolute(f"{sweeps.folder(root, name)}/{sweeps.PAGE}")
        table.add_row(name, str(counts.get("points", NEVER)), str(counts.get("failed", NEVER)), page)
    if not table.row_count:
        table.add_row("none was run yet", "", "", "")
    console.print(table)
    if schedules:
        last_runs, reasons, alive = _history(config, schedules)
        columns = ("schedule", "when", "missed", "where", "next", "last")
        table = Table(*columns, box=None, pad_edge=False, header_style="bold")
        for each in schedules:
            tick = _format_time(due.next_tick(each.cron, each.timezone, time.time())) if each.cron else NEVER
            following, last = "paused" if each.paused else tick, last_runs.get(each.name, NEVER)
            table.add_row(each.name, each.when, each.missed, each.cluster or "here", following, last)
        console.print()
        console.print(table)
        for name, reason in reasons.items():
            common.print_field(console, "failed", f"{name}: {reason}")
        if not alive:
            text = f"no daemon looks at {io.absolute(root)}: start `{command('ui')}`"
            common.print_field(console, "asleep", text)
    for text in errors:
        common.print_field(console, "damaged", text)
    return 0


def set_paused(arguments: Namespace) -> int:
    """`vimctl sweep pause` and `resume`. Raises `ConfigError` for one that is unknown, or in that state already."""
    from pipelines.schedules import state

    root, paused = presets.load(arguments.preset, arguments.words).run.root, arguments.paused
    schedule = state.read(root, arguments.schedule)
    if schedule.paused is paused:
        raise ConfigError(f"schedule {schedule.name!r}: is {'paused' if paused else 'not paused'} already")
    changed = dataclasses.replace(schedule, paused=paused)
    state.replace(root, changed if paused else _starting_now(changed, root))
    resume = command("sweep", "resume", schedule.name)
    effect = f"paused; `{resume}` lets it run again" if paused else f"runs again{_next_tick(schedule)}"
    common.print_line(f"{schedule.name}: {effect}")
    return 0


def unschedule(arguments: Namespace) -> int:
    """`vimctl sweep unschedule`. Raises `ConfigError` for an unknown one."""
    from pipelines.schedules import state

    state.remove(presets.load(arguments.preset, arguments.words).run.root, arguments.schedule)
    common.print_line(f"{arguments.schedule}: no longer scheduled; its results stay")
    return 0


def _starting_now(schedule: Schedule, root: str) -> Schedule:
    """Return the same schedule, with ticks and checkpoints before now ignored."""
    known: list[str] = []
    if schedule.checkpoints_of:
        from components.training import prior_checkpoints as checkpoints
        from pipelines.schedules import due, state

        known = [
            due.checkpoint_name(checkpoint) for checkpoint in checkpoints.available(state.load_config(schedule, root))
        ]
    return dataclasses.replace(schedule, since=time.time(), known=known)


def _next_tick(schedule: Schedule) -> str:
    from pipelines.schedules import due

    if not schedule.cron:
        return ""
    return f", next {_format_time(due.next_tick(schedule.cron, schedule.timezone, time.time()))}"


def _format_time(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M} UTC"


def _history(config: PipelineConfig, schedules: list[Schedule]) -> tuple[dict[str, str], dict[str, str], bool]:
    """By schedule its last run, and why that failed; whether the daemon's sensor is alive.

    Nothing without a local history.
    """
    if not os.environ.get("DAGSTER_HOME"):
        if not io.is_local(config.run.root):
            return {}, {}, True  # the history of a remote root lies where its daemon runs
        if not (io.local_path(config.run.root) / "dagster" / "dagster.yaml").exists():
            return {}, {}, False
    from dagster import DagsterRunStatus, RunsFilter

    from pipelines.orchestration import history
    from pipelines.schedules import due

    last_runs, reasons = {}, {}
    with history.instance(config) as instance:
        for schedule in schedules:
            for record in instance.get_run_records(filters=RunsFilter(tags={due.TAG: schedule.name}), limit=1):
                status = str(record.dagster_run.status.value).lower()
                last_runs[schedule.name] = f"{status} {_format_time(record.create_timestamp.timestamp())}"
                if record.dagster_run.status in (DagsterRunStatus.FAILURE, DagsterRunStatus.CANCELED):
                    reasons[schedule.name] = history.failure_reason(instance, record.dagster_run.run_id) or "no reason"
        return last_runs, reasons, bool(instance.get_daemon_statuses(["SENSOR"])["SENSOR"].healthy)
