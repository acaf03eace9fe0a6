"""What each `vimctl` command does; everything heavy is imported when a command needs it."""

from __future__ import annotations

import logging
import sys
from argparse import Namespace
from typing import TYPE_CHECKING

from pipelines import presets
from vim_core.errors import ConfigError, DataError

if TYPE_CHECKING:
    from rich.console import Console

NOISY = ("dagster", "mlflow", "alembic", "ray", "apache_beam", "fsspec", "urllib3")


def run(arguments: Namespace) -> int:
    """`vimctl run`: execute components, then say what was made and where it lies."""
    from components.progress import progress_on
    from pipelines import launch, summary

    target, overrides = split_words(arguments.words)
    settings = presets.load(arguments.preset, overrides)
    names = launch.plan(settings, target, arguments.only)
    forced = ([target] if target else names) if arguments.force else []
    out = console()
    quiet_logging(out)
    summary.opening(settings, names, out)
    done = launch.run(settings, names, forced, progress_on(out))
    summary.closing(done, out)
    return 0


def config(arguments: Namespace) -> int:
    """`vimctl config`: the resolved settings as YAML."""
    from components.settings import to_yaml

    sys.stdout.write(to_yaml(presets.load(arguments.preset, only_overrides(arguments.words))))
    return 0


def list_presets(arguments: Namespace) -> int:
    """`vimctl presets`: names and headlines."""
    known = presets.headlines()
    width = max(map(len, known), default=0)
    for name, headline in known.items():
        sys.stdout.write(f"{name:<{width}}  {headline}\n")
    return 0


def report(arguments: Namespace) -> int:
    """`vimctl report`: where the page lies, or the published figures. Raises `DataError` where there is none."""
    from pipelines import session, summary
    from vim_core import io

    settings = presets.load(arguments.preset, only_overrides(arguments.words))
    folder = session.published(settings)
    wanted = io.join(folder, "results.json" if arguments.json else "report.html")
    if not io.exists(wanted):
        raise DataError(f"{summary.place(wanted)}: no report yet; make it with `vimctl run --preset {settings.preset}`")
    if arguments.json:
        sys.stdout.write(io.read_bytes(wanted).decode())
    else:
        sys.stdout.write(f"{summary.place(wanted)}\n")
    return 0


def ui(arguments: Namespace) -> int:
    """`vimctl ui`: MLflow and Dagster until interrupted."""
    from pipelines import ui as servers

    overrides = only_overrides(arguments.words)
    if arguments.root is not None:
        overrides.append(f"run.root={arguments.root}")
    settings = presets.load(arguments.preset, overrides)
    return servers.serve(
        settings, arguments.preset, overrides, arguments.mlflow_port, arguments.dagster_port, console()
    )


def split_words(words: list[str]) -> tuple[str | None, list[str]]:
    """The component, if one is named, and the overrides. Raises `ConfigError` for a second component."""
    names = [word for word in words if "=" not in word]
    if len(names) > 1:
        raise ConfigError(f"{' '.join(names)}: name one component, or none for the whole preset")
    return (names[0] if names else None), [word for word in words if "=" in word]


def only_overrides(words: list[str]) -> list[str]:
    """The overrides where no component may be named. Raises `ConfigError` for any other word."""
    name, overrides = split_words(words)
    if name is not None:
        raise ConfigError(f"{name}: expected key=value")
    return overrides


def console() -> Console:
    """Where people read."""
    from rich.console import Console

    return Console()


def quiet_logging(out: Console) -> None:
    """Our own messages in one line each above the bar; of the engines only errors."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[ConsoleHandler(out)])
    for name in NOISY:
        logging.getLogger(name).setLevel(logging.ERROR)
    # It logs every error that it raises, with its whole trace; ours say what it means.
    logging.getLogger("gcsfs").setLevel(logging.CRITICAL)


class ConsoleHandler(logging.Handler):
    """Log records as unbroken lines on the console that draws the bar."""

    def __init__(self, out: Console) -> None:
        super().__init__()
        self._out = out

    def emit(self, record: logging.LogRecord) -> None:
        """Print one record."""
        self._out.print(self.format(record), markup=False, highlight=False, soft_wrap=True)
