"""`vimctl sweep`: evaluate a trained preset over a grid of sampling and scoring settings."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pipelines import presets
from pipelines.cli import commands, schedule
from vim_core.errors import ConfigError, DataError

if TYPE_CHECKING:
    from argparse import ArgumentParser

    from pipelines.sweeps.spec import Sweep
    from vim_core.config import PipelineConfig

SOME_FAILED = 1
TEXT = """\
examples:
  vimctl sweep run digits                     the sweep that ships with the package, on its own preset
  vimctl sweep run mine.yaml --preset smoke   any file, on another preset
  vimctl sweep run digits run.root=gs://…     settings of the preset, such as where the trained models lie
  vimctl sweep schedule digits --cron '0 3 * * *' --missed latest   every night; once if it was off
  vimctl sweep schedule digits --on-checkpoint prior                at every new checkpoint of a training
  vimctl sweep show digits                    points, figures and the best again; --json for programs
"""


def grammar(made: ArgumentParser) -> None:
    """The words after `vimctl sweep`, a line for each."""
    kinds = made.add_subparsers(metavar="COMMAND", required=True)
    _run(kind(kinds, "run", run, "evaluate every point of a sweep; what exists already is reused"))
    schedule.grammar(kinds, kind)
    _show(kind(kinds, "show", show, "print the points of a sweep with their figures, the best marked"))


def run(arguments: Namespace) -> int:
    """`vimctl sweep run`: 0 when every point was evaluated, 1 when some failed."""
    from pipelines.sweeps import spec

    sweep = spec.load(arguments.sweep)
    return evaluate(sweep, presets.load(arguments.preset or sweep.preset or presets.default(), arguments.words), {})


def evaluate(sweep: Sweep, config: PipelineConfig, tags: Mapping[str, str]) -> int:
    """Run a sweep and show how it went; 0 when every point was evaluated, 1 when some failed."""
    from components.tracking.progress import progress_on
    from pipelines.sweeps import running, showing

    out = commands.console()
    commands.quiet_logging(out)
    showing.opening(sweep, config, out)
    done = running.run(sweep, config, progress_on(out), tags)
    showing.closing(done.results, done.folder, out)
    if done.failed:
        sys.stderr.write(f"vimctl: {done.failed} of {done.total} points failed; the same command tries them again\n")
    return SOME_FAILED if done.failed else 0


def show(arguments: Namespace) -> int:
    """`vimctl sweep show`. Raises `DataError` for a sweep that was not run in this root."""
    from pipelines.sweeps import showing, state

    root = _config(arguments).run.root
    found = state.read(root, arguments.sweep)
    if found is None:
        known = ", ".join(state.names(root)) or "none"
        raise DataError(f"sweep {arguments.sweep!r}: not run in {root}, where there are: {known}")
    if arguments.json:
        sys.stdout.write(json.dumps(found, indent=2) + "\n")
    else:
        showing.closing(found, state.folder(root, arguments.sweep), commands.console())
    return 0


def kind(kinds: Any, name: str, act: object, text: str) -> ArgumentParser:
    """One subcommand of `vimctl sweep`."""
    return commands.subcommand(kinds, name, act, text, TEXT)


def settings(made: ArgumentParser) -> None:
    """The words that say which preset, and what is different in it."""
    made.add_argument("words", nargs="*", metavar="key=value …", help="settings of the preset by dotted key")
    made.add_argument("--preset", default="", help="a preset's name or a YAML file (default: the sweep's own)")


def _run(made: ArgumentParser) -> None:
    made.add_argument("sweep", metavar="FILE|NAME", help="a YAML file, or the name of a sweep of the package")
    settings(made)


def _show(made: ArgumentParser) -> None:
    made.add_argument("sweep", metavar="NAME", help="the sweep's name, as its folder below <root>/sweeps")
    settings(made)
    made.add_argument("--json", action="store_true", help="print results.json")


def _config(arguments: Namespace) -> PipelineConfig:
    for word in arguments.words:
        if "=" not in word:
            raise ConfigError(f"{word!r}: write an override as key=value, such as run.root=/mnt/runs")
    return presets.load(arguments.preset or presets.default(), arguments.words)
