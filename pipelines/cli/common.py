"""Shared by all commands: parsers, settings on the command line, and lines on the terminal."""

from __future__ import annotations

import logging
import shlex
import sys
import textwrap
from argparse import ArgumentParser, ArgumentTypeError, RawDescriptionHelpFormatter, _SubParsersAction
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, TypeVar

from pipelines import presets
from vim_core.config.fields import Range
from vim_core.errors import ConfigError

if TYPE_CHECKING:
    from argparse import Namespace

    from rich.console import Console

    from components.contract.api import Artifact
    from vim_core.config import PipelineConfig

    Subparsers = _SubParsersAction[ArgumentParser]

ARTIFACT = "its folder, COMPONENT/PREFIX, a prefix, COMPONENT (of the preset), or models:/NAME/VERSION"
"""Help text of an argument that `resolve` takes."""
Number = TypeVar("Number", int, float)
NOISY_LOGGERS = ("dagster", "mlflow", "alembic", "ray", "apache_beam", "fsspec", "urllib3")
"""Libraries whose warnings would hide VIM's own."""
OWN_LOGGERS = ("vim_core", "components", "pipelines")


def number(kind: Callable[[str], Number], allowed: Range) -> Callable[[str], Number]:
    """The type of an option that takes a number in a range; argparse prints the rule for any other."""

    def read(text: str) -> Number:
        try:
            value = kind(text)
        except ValueError:
            raise ArgumentTypeError(f"{text!r} is no {'whole number' if kind is int else 'number'}") from None
        if value not in allowed:
            raise ArgumentTypeError(f"{text}: {allowed}")
        return value

    return read


PORT = number(int, Range(0, 65_535))
POSITIVE, COUNT = number(int, Range(0, above=True)), number(int, Range(0))
POSITIVE_FLOAT, AMOUNT = number(float, Range(0, above=True)), number(float, Range(0))


def subcommand(
    subparsers: Subparsers, name: str, action: Callable[[Namespace], int] | None, summary: str,
    *examples: tuple[str, str],
) -> ArgumentParser:  # fmt: skip
    """Add the command `name` and return its parser.

    `action` runs it and returns the exit status; None for a group of commands. `summary` is one line without a full
    stop. `examples` are two or three command lines without `vimctl`, each with what it does.
    """
    width = max(len(line) for line, _ in examples)
    lines = [f"  vimctl {line:<{width}}   {text}" for line, text in examples]
    parser: ArgumentParser = subparsers.add_parser(
        name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.",
        epilog="\n".join(["examples:", *lines]), formatter_class=RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.set_defaults(action=action)
    return parser


def group(subparsers: Subparsers, name: str, summary: str, *examples: tuple[str, str]) -> Subparsers:
    """Add a command that only has commands below it, and return where they are added."""
    parser = subcommand(subparsers, name, None, summary, *examples)
    return parser.add_subparsers(title="commands", metavar="COMMAND", required=True)


def add_settings(parser: ArgumentParser, metavar: str = "key=value …", default: str = "") -> None:
    """Add settings by dotted key and `--preset`; see `add_preset`."""
    parser.add_argument("words", nargs="*", metavar=metavar, help="settings by dotted key, such as prior.steps=1200")
    add_preset(parser, default)


def add_preset(parser: ArgumentParser, default: str = "") -> None:
    """Add `--preset`. With `default`, a description such as "the sweep's own", the option is '' if not given."""
    parser.add_argument(
        "--preset", default="" if default else presets.default(),
        help=f"a preset's name or a YAML file (default: {default or '%(default)s'})",
    )  # fmt: skip


def add_root(parser: ArgumentParser) -> None:
    """Add `--root` and `--preset`, by which `resolve` finds artifacts."""
    parser.add_argument("--root", help="the artifact root, path or gs://… (default: the preset's, or VIM_ROOT)")
    add_preset(parser)


def artifact_config(arguments: Namespace) -> PipelineConfig:
    """The settings of `--preset`, with the root of `--root`."""
    return presets.load(arguments.preset, [f"run.root={arguments.root}"] if arguments.root else [])


def resolve(text: str, arguments: Namespace, *kinds: str) -> Artifact:
    """The artifact that a word of the command line names; see `components.artifacts.resolve`."""
    from components.artifacts import resolve

    return resolve.resolve(text, artifact_config(arguments), kinds)


def add_selection(parser: ArgumentParser) -> None:
    """Add `--only`, `--force` and `--from`: what is run, and what of it again."""
    parser.add_argument("--only", action="store_true", help="run only COMPONENT; fail if an input is missing")
    parser.add_argument("--force", action="store_true", help="run again although the artifact exists")
    parser.add_argument(
        "--from", dest="start", default="", metavar="COMPONENT",
        help="make it and all that depends on it again (up to COMPONENT, if one is named); reuse what lies before",
    )  # fmt: skip


def split_words(words: list[str]) -> tuple[str | None, list[str]]:
    """The component, if one is named, and the settings. Raises `ConfigError` for a second one, or for a preset."""
    names = [word for word in words if "=" not in word]
    for name in names:
        if name.endswith((".yaml", ".yml")) or (presets.FOLDER / f"{name}.yaml").is_file():
            raise ConfigError(f"{name}: is a preset; name it with --preset {shlex.quote(name)}")
    if len(names) > 1:
        raise ConfigError(f"{' '.join(names)}: name one component, or none for the whole preset")
    return (names[0] if names else None), [word for word in words if "=" in word]


def only_overrides(words: list[str]) -> list[str]:
    """The settings where no component may be named. Raises `ConfigError` for any other word."""
    name, overrides = split_words(words)
    if name is not None:
        raise ConfigError(f"{name}: expected key=value, such as run.root=/mnt/runs")
    return overrides


def print_lines(lines: Iterable[str]) -> int:
    """Print each line as soon as it comes; returns the exit status 0."""
    for line in lines:
        print_line(line)
    return 0


def print_line(line: str) -> None:
    """Print a line and flush it, for readers of a pipe."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def console() -> Console:
    """The terminal, or a file that it is sent to."""
    from rich.console import Console

    return Console()


def print_field(console: Console, title: str, text: str, whole: bool = False) -> None:
    """Print a title and a text, see `print_wrapped`; with `whole` unbroken, as a command to copy."""
    print_wrapped(console, f"{title:<11} ", text, "bold", whole)


def print_wrapped(console: Console, begin: str, text: str, style: str = "", whole: bool = False) -> None:
    """Print `begin` in a style and a text after it; a terminal's lines end between words, a file's or whole never."""
    width = console.width if console.is_terminal and not whole else 0
    room = max(20, width - len(begin))
    lines = textwrap.wrap(text, room, break_long_words=False, break_on_hyphens=False) if width else [text]
    console.print(begin, style=style, end="", markup=False, highlight=False, soft_wrap=True)
    for line in [*lines[:1], *(" " * len(begin) + line for line in lines[1:])] or [""]:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def configure_logging(console: Console, verbose: bool = False) -> None:
    """Show VIM's own warnings as one line each above the progress bar, once, and only errors of the engines.

    With `verbose`, also VIM's messages for developers.
    """
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[ConsoleHandler(console)])
    for name in NOISY_LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)
    for name in OWN_LOGGERS:
        logging.getLogger(name).setLevel(logging.DEBUG if verbose else logging.NOTSET)
    # gcsfs logs every error that it raises with its traceback; VIM's own error explains it.
    logging.getLogger("gcsfs").setLevel(logging.CRITICAL)


class ConsoleHandler(logging.Handler):
    """Log records as unbroken lines on the console that draws the progress bar."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console
        self._seen = set[str]()

    def emit(self, record: logging.LogRecord) -> None:
        """Print one record, unless its text was printed before."""
        text = self.format(record)
        if text not in self._seen:
            self._seen.add(text)
            print_wrapped(self._console, "", text)
