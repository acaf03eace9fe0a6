"""`vimctl run`, `config`, `presets` and `report`: a preset's components, settings and figures."""

from __future__ import annotations

import dataclasses
import json
import sys
from argparse import Namespace
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from components.contract.commands import command
from pipelines import presets
from pipelines.cli import common
from vim_core.errors import DataError

if TYPE_CHECKING:
    from rich.console import Console

    from components.artifacts.execute import Result
    from pipelines.orchestration.session import Session
    from vim_core.config import PipelineConfig


NAME_WIDTH = 11
"""Columns of the longest component's name."""


def add_commands(subparsers: common.Subparsers) -> None:
    """Add the commands of this module."""
    running = common.subcommand(
        subparsers, "run", run, "run a preset's components; what exists already is reused",
        ("run --preset digits prior.dropout=0.2", "with another setting: only what it changes runs again"),
        ("run prior --preset digits --from quantize", "one component, and what leads to it made again"),
        ("run --preset digits --dry-run", "what would run or be reused, why, and for how long"),
    )  # fmt: skip
    common.add_settings(running, "[COMPONENT] key=value …")
    common.add_selection(running)
    running.add_argument("--verbose", action="store_true", help="print messages for developers too")
    running.add_argument(
        "--dry-run", action="store_true", help="print what would run or be reused, why, and for how long; run nothing"
    )
    printing = common.subcommand(
        subparsers, "config", print_config, "print a preset's settings, resolved",
        ("config --preset digits prior.steps=9", "every setting as YAML, one changed, all checked"),
        ("config --explain prior.dropout", "what it does, its default, who reads it, the presets' values"),
        ("config --diff digits", "only what differs from the defaults"),
    )  # fmt: skip
    common.add_settings(printing)
    printing.add_argument("--explain", default="", metavar="KEY", help="explain this setting or group of settings")
    printing.add_argument(
        "--diff", nargs="?", const="", metavar="PRESET",
        help="only settings that differ from the defaults, as a preset's file (default: of --preset)",
    )  # fmt: skip
    common.subcommand(
        subparsers, "presets", list_presets, "list the presets",
        ("presets", "names and descriptions"),
        ("config --preset imagenet256_base", "every setting of one of them"),
    )  # fmt: skip
    reporting = common.subcommand(
        subparsers, "report", print_report, "print where the last report lies, or its figures",
        ("report --preset digits --list", "all reports of the preset"),
        ("report report/3fa2", "the page of an earlier run"),
    )  # fmt: skip
    common.add_settings(reporting, "[ARTIFACT] key=value …")
    reporting.add_argument("--json", action="store_true", help="print results.json")
    reporting.add_argument("--list", action="store_true", help="list this preset's reports, newest first")


def run(arguments: Namespace) -> int:
    """`vimctl run`. Raises `ConfigError` for words or settings that contradict each other or the preset."""
    from components.artifacts import forecast
    from components.contract import agreement, registry
    from pipelines.orchestration import launch

    target, overrides = common.split_words(arguments.words)
    config = presets.load(arguments.preset, overrides)
    names = launch.plan(config, target, arguments.only, arguments.start)
    agreement.check(config, names)
    forced = ([target] if target else names) if arguments.force else []
    if arguments.dry_run:
        remade = registry.downstream(arguments.start, config.components, config) if arguments.start else []
        return common.print_lines(forecast.lines(forecast.forecast(config, names, {*forced, *remade})))
    return execute(config, names, forced, arguments.start, verbose=arguments.verbose)


def execute(
    config: PipelineConfig, names: list[str], forced: list[str], start: str,
    places: Mapping[str, Mapping[str, Any]] = MappingProxyType({}), tags: Mapping[str, str] = MappingProxyType({}),
    verbose: bool = False,
) -> int:  # fmt: skip
    """Run components and print a line for each, and addresses; see `launch.run`. Returns 0."""
    from components.tracking.link import tracking_uri
    from components.tracking.progress import ClosingProgress, progress_on
    from pipelines.orchestration import launch
    from vim_core.storage import io

    console = common.console()
    common.configure_logging(console, verbose)
    uri, bar, done = tracking_uri(config.run), progress_on(console), 0
    common.print_field(console, "preset", f"{config.preset}: {', '.join(names)}")
    common.print_field(console, "root", io.absolute(config.run.root))
    common.print_field(
        console, "MLflow", f"experiment {config.preset} in {uri}" if uri else "off (run.tracking_uri=off)"
    )

    def begin(name: str) -> ClosingProgress:
        return bar(f"{_count(done + 1, len(names))}  {name:<{NAME_WIDTH}}")

    def finished(name: str, result: Result) -> None:
        nonlocal done
        done += 1
        print_result(console, _count(done, len(names)), name, result)

    print_addresses(launch.run(config, names, forced, begin, places, tags, start, finished), console)
    return 0


def print_result(console: Console, count: str, name: str, result: Result) -> None:
    """Print the line of a component: ran or reused, time, headline figures."""
    from components.artifacts.format import figure, headline_figures
    from vim_core.text import duration

    figures = " · ".join(
        f"{key}\N{NO-BREAK SPACE}{figure(value)}" for key, value in headline_figures(result.artifact).items()
    )
    state, style = ("reused", "dim") if result.reused else ("ran", "green")
    begin = f"{count}  {name:<{NAME_WIDTH}}  {state:<6}  {duration(result.seconds):>11}  "
    common.print_wrapped(console, begin, figures, style)


def print_addresses(session: Session, console: Console) -> None:
    """Print where the results of a run are."""
    from pipelines.orchestration.session import report_folder
    from vim_core.storage import io

    record = session.tracking.record()
    if session.page:
        common.print_field(console, "report", io.absolute(session.page))
        results = io.join(report_folder(session.config), "results.json")
        common.print_field(console, "figures", io.absolute(results))
    if record:
        page = session_page(session)
        run = f"run {record['run_id'] or 'not delivered'}"
        common.print_field(
            console, "MLflow", f"{page}   ({run})" if page else f"experiment {record['experiment']}, {run}"
        )
    line = command("ui", preset=session.config.preset)
    common.print_field(console, "look around", line, whole=True)


def _count(number: int, total: int) -> str:
    return f"{number:>{len(str(total))}} of {total}"


def session_page(session: Session) -> str:
    """MLflow's table of the session's runs, '' where no server that shows them is known."""
    from components.tracking.pages import runs_page
    from pipelines.orchestration import running

    server = session.tracking.uri
    if server.startswith("sqlite:"):
        last = running.read(session.config)
        server = last.servers.get("MLflow", "") if last is not None and last.alive else ""
    return runs_page(server, session.tracking.experiment_id) if server.startswith("http") else ""


def print_config(arguments: Namespace) -> int:
    """`vimctl config`: the resolved settings as YAML with comments, or one of them explained."""
    from components.contract import explain, settings

    preset, words = arguments.diff or arguments.preset, arguments.words
    if "=" in preset:  # argparse took the first setting for the preset of --diff
        preset, words = arguments.preset, [preset, *words]
    config = presets.load(preset, common.only_overrides(words))
    origins = presets.origins(preset, words)
    if arguments.explain:
        every = {name: presets.load(name, []) for name in settings.presets(presets.FOLDER)}
        return common.print_lines(explain.explain(arguments.explain, config, every, origins))
    sys.stdout.write(explain.commented(config, arguments.diff is not None, origins))
    return 0


def list_presets(arguments: Namespace) -> int:
    """`vimctl presets`: every preset's name and the first line of its header."""
    from components.contract import settings

    names = settings.presets(presets.FOLDER)
    width = max(map(len, names), default=0)
    for name in names:
        headline = (presets.FOLDER / f"{name}.yaml").read_text(encoding="utf-8").partition("\n")[0].lstrip("# ").strip()
        common.print_line(f"{name:<{width}}  {headline}")
    return 0


def print_report(arguments: Namespace) -> int:
    """`vimctl report`: the page's address, or the published figures. Raises `DataError` where there is none."""
    from components.artifacts import resolve
    from pipelines.orchestration.session import report_folder
    from vim_core.storage import io

    named, overrides = common.split_words(arguments.words)
    config, name = presets.load(arguments.preset, overrides), "results.json" if arguments.json else "report.html"
    if arguments.list:
        return list_reports(config)
    if named is None:
        uri = io.join(report_folder(config), name)
    else:
        uri = resolve.resolve(named, config, ["report"]).uri(name)
    if not io.exists(uri):
        raise DataError(f"{io.absolute(uri)}: no report yet; make it with `{command('run', preset=config.preset)}`")
    sys.stdout.write(io.read_bytes(uri).decode() if arguments.json else f"{io.absolute(uri)}\n")
    return 0


def list_reports(config: PipelineConfig) -> int:
    """`vimctl report --list`: the preset's artifacts of `report`, each with its date and the settings that differ."""
    from components.artifacts import inventory
    from components.report import compare
    from vim_core.storage import io

    artifacts = inventory.artifacts(config.run.root, "report")
    runs = [compare.Run("", json.loads(io.read_bytes(artifact.uri("results.json")))) for artifact in artifacts]
    runs = [dataclasses.replace(run, name=str(run.record.get("preset", ""))) for run in runs]
    for artifact, run, name in zip(artifacts, runs, compare.names(runs), strict=True):
        if run.name == config.preset:
            key = inventory.short_name(artifact.manifest.key)
            created = artifact.manifest.created[:16].replace("T", " ")
            common.print_line(f"{key}  {created}  {name}  {artifact.uri('report.html')}")
    if config.preset not in {run.name for run in runs}:
        raise DataError(f"{config.run.root}: no report of {config.preset}; `{command('run', preset=config.preset)}`")
    return 0
