"""The `vimctl` command: its parser, put together from the commands' modules, and its exit status."""

from __future__ import annotations

import argparse
import io
import os
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence

from components.contract import commands
from components.engines.environment import prepare
from pipelines.cli import artifacts, compare, doctor, init, local, models, plan, rehearse, run, submit, sweep
from vim_core import __version__
from vim_core.errors import ConfigError, VimError

CONFIG_ERROR, OTHER_ERROR, INTERRUPTED = 2, 1, 130
MODULES = (init, run, sweep, models, plan, rehearse, compare, artifacts, local, doctor, submit)
GROUPS = {
    "make data, train, sample": ("init", "run", "sweep", "encode", "reconstruct", "tables", "export", "import"),
    "look": ("presets", "config", "plan", "report", "compare", "artifacts", "ui"),
    "operate": ("rehearse", "doctor", "cluster", "submit", "status", "logs", "cancel"),
}
EXAMPLES = """\
examples:
  vimctl run --preset digits                      the whole pipeline; what exists already is reused
  vimctl report --preset digits                   the page of the last run
  vimctl submit --preset digits --cluster local   the pipeline as a job on a cluster
  vimctl COMMAND --help                           a command's options and examples
"""


def main(argv: Sequence[str] | None = None) -> int:
    """The console command; returns its exit status: 2 for a config error, 1 for another one, 130 if interrupted."""
    prepare()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal or a file may only take ASCII
            stream.reconfigure(errors="replace")
    try:
        parsed = parse(list(sys.argv[1:] if argv is None else argv))
        settings = [word for word in getattr(parsed, "words", ()) if "=" in word]
        with commands.command_context(getattr(parsed, "preset", ""), settings, getattr(parsed, "root", "") or ""):
            status: int = parsed.action(parsed)
        return status
    except VimError as error:
        sys.stderr.write(f"vimctl: {' '.join(str(error).split())}\n")
        return CONFIG_ERROR if isinstance(error, ConfigError) else OTHER_ERROR
    except KeyboardInterrupt:
        sys.stderr.write("\nvimctl: interrupted; finished work is kept, the same command continues\n")
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of our output closed the pipe; closing it again at exit would print a second error.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OTHER_ERROR


def parse(arguments: list[str]) -> Namespace:
    """Return the options of a command line; their `action` runs it. Exits with status 2 for unknown arguments."""
    parser = build_parser()
    if not arguments:
        parser.print_help()
        parser.exit(CONFIG_ERROR)
    # argparse fills positional arguments in one go; those after an option come back as unknown.
    parsed, rest = parser.parse_known_args(arguments)
    unknown = [word for word in rest if word.startswith("-")]
    if unknown or (rest and not hasattr(parsed, "words")):
        parser.error(f"unrecognized arguments: {' '.join(unknown or rest)}")
    if rest:
        parsed.words = [*parsed.words, *rest]
    return parsed


def build_parser() -> ArgumentParser:
    """The grammar of all commands."""
    parser = argparse.ArgumentParser(
        prog="vimctl", usage="vimctl COMMAND …", formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Train and judge vector-quantized image models, from raw images to a report.",
    )  # fmt: skip
    parser.add_argument("--version", action="version", version=f"vimctl {__version__}")
    # argparse would list the commands without groups.
    kinds = parser.add_subparsers(prog="vimctl", metavar="COMMAND", required=True, help=argparse.SUPPRESS)
    for module in MODULES:
        module.add_commands(kinds)
    lines = []
    for title, names in GROUPS.items():
        described = {name: str(kinds.choices[name].description) for name in names}
        lines += [f"{title}:", *(f"  {name:<13}{text.rstrip('.')}" for name, text in described.items()), ""]
    parser.epilog = "\n".join([*lines, EXAMPLES])
    return parser
