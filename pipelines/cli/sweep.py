"""`vimctl sweep`: evaluate a trained preset over a grid of sampling and scoring settings."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from collections.abc import Mapping
from typing import TYPE_CHECKING

from pipelines import presets
from pipelines.cli import common, schedule
from vim_core.errors import DataError

if TYPE_CHECKING:
    from pipelines.cli.common import Subparsers
    from pipelines.sweeps.spec import Sweep
    from vim_core.config import PipelineConfig

SOME_FAILED = 1


def add_commands(subparsers: Subparsers) -> None:
    """Add `vimctl sweep`."""
    kinds = common.group(
        subparsers, "sweep", "evaluate a trained preset over a grid of sampling and scoring settings",
        {
            "sweep run digits": "guidance, temperature, acceptance: table, Pareto plot, the best",
            "sweep schedule digits --cron '0 3 * * *'": "every night",
            "sweep show digits": "points, figures and the best again",
        },
    )  # fmt: skip
    running = common.subcommand(
        kinds, "run", run, "evaluate every point of a sweep; what exists already is reused",
        {
            "sweep run digits": "the sweep that ships with the package, on its own preset",
            "sweep run mine.yaml --preset smoke": "any file, on another preset",
            "sweep run digits run.root=gs://bucket/vim": "where the trained models lie",
        },
    )  # fmt: skip
    running.add_argument("sweep", metavar="FILE|NAME", help="a YAML file, or the name of a sweep of the package")
    schedule.add_commands(kinds)
    showing = common.subcommand(
        kinds, "show", show, "print the points of a sweep with their figures, the best marked",
        {"sweep show digits": "a table", "sweep show digits --json": "results.json, for programs"},
    )  # fmt: skip
    showing.add_argument("sweep", metavar="NAME", help="the sweep's name, as its folder below <root>/sweeps")
    showing.add_argument("--json", action="store_true", help="print results.json")
    for parser in (running, showing):
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
    return SOME_FAILED if done.failed else 0


def show(arguments: Namespace) -> int:
    """`vimctl sweep show`. Raises `DataError` for a sweep that was not run in this root."""
    from pipelines.sweeps import state, summary

    overrides = common.only_overrides(arguments.words)
    root = presets.load(arguments.preset or presets.default(), overrides).run.root
    results = state.read(root, arguments.sweep)
    if results is None:
        known = ", ".join(state.names(root)) or "none"
        raise DataError(f"sweep {arguments.sweep!r}: not run in {root}, where there are: {known}")
    if arguments.json:
        sys.stdout.write(json.dumps(results, indent=2) + "\n")
    else:
        summary.print_results(results, state.folder(root, arguments.sweep), common.console())
    return 0
