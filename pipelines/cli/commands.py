"""What each `vimctl` command does; everything heavy is imported when a command needs it."""

from __future__ import annotations

import argparse
import logging
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from pipelines import presets
from vim_core.errors import ConfigError, DataError

if TYPE_CHECKING:
    from rich.console import Console

NOISY = ("dagster", "mlflow", "alembic", "ray", "apache_beam", "fsspec", "urllib3")


def run(arguments: Namespace) -> int:
    """`vimctl run`: execute components, then say what was made and where it lies."""
    from components.tracking.progress import progress_on
    from pipelines.cli import summary
    from pipelines.orchestration import launch

    target, overrides = split_words(arguments.words)
    settings = presets.load(arguments.preset, overrides)
    names = launch.plan(settings, target, arguments.only, arguments.start)
    forced = ([target] if target else names) if arguments.force else []
    out = console()
    quiet_logging(out)
    summary.opening(settings, names, out)
    done = launch.run(settings, names, forced, progress_on(out), start=arguments.start)
    summary.closing(done, out)
    return 0


def config(arguments: Namespace) -> int:
    """`vimctl config`: the resolved settings as YAML."""
    from components.contract.settings import to_yaml

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
    from pipelines.cli import summary
    from pipelines.orchestration import session
    from vim_core.storage import io

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


def compare(arguments: Namespace) -> int:
    """`vimctl compare`: several runs on one page and in a table. Raises `DataError` for a run without a report."""
    from pipelines.cli import compare as comparison

    names = [word for word in arguments.words if "=" not in word]
    overrides = [word for word in arguments.words if word not in names]
    comparison.show(comparison.write(names, overrides, arguments.out), arguments.out, console())
    return 0


def export_tables(arguments: Namespace) -> int:
    """`vimctl tables export`: an image table as one .npz or a folder of PNG."""
    from components.exchange import tables as exchange

    uris = exchange.files_of(arguments.source, arguments.split)
    count = exchange.export_table(uris, arguments.target)
    sys.stdout.write(f"{count} images in {arguments.target}\n")
    return 0


def import_tables(arguments: Namespace) -> int:
    """`vimctl tables import`: an .npz or a folder of pictures as an image table."""
    from components.exchange import tables as exchange

    names = exchange.import_table(arguments.source, arguments.target, (arguments.classes or "").split(","))
    sys.stdout.write("".join(f"{name}\n" for name in names))
    return 0


def plan(arguments: Namespace) -> int:
    """`vimctl plan`: memory, work and storage of a preset, from its settings alone."""
    from pipelines.cli import plan as planning

    return planning.run(arguments)


def ui(arguments: Namespace) -> int:
    """`vimctl ui`: MLflow and Dagster until interrupted."""
    from pipelines.orchestration import ui as servers

    overrides = only_overrides(arguments.words)
    if arguments.root is not None:
        overrides.append(f"run.root={arguments.root}")
    settings = presets.load(arguments.preset, overrides)
    return servers.serve(
        settings, arguments.preset, overrides, arguments.mlflow_port, arguments.dagster_port, console(),
        arguments.cluster,
    )  # fmt: skip


def encode(arguments: Namespace) -> int:
    """`vimctl encode`: codes of one's own pictures."""
    from components.exchange import encode as pictures

    return _said(pictures.encode(arguments.images, arguments.tokenizer, arguments.out, arguments.device))


def reconstruct(arguments: Namespace) -> int:
    """`vimctl reconstruct`: one's own pictures through a tokenizer and back."""
    from components.exchange import encode as pictures

    beside = arguments.side_by_side
    given = arguments.images, arguments.tokenizer, arguments.out, beside, arguments.device
    return _said(pictures.reconstruct(*given))


def export(arguments: Namespace) -> int:
    """`vimctl export`: a tokenizer or prior as weights, config and model card."""
    from components.exchange import export as exporting

    return _said(exporting.export(arguments.artifact, arguments.out, arguments.license))


def bring_in(arguments: Namespace) -> int:
    """`vimctl import`: a checkpoint of enhancing-transformers as an exported tokenizer."""
    from components.exchange import encode as pictures

    return _said([pictures.bring_in(arguments.checkpoint, arguments.out, arguments.head_dim)])


def _said(lines: Iterable[str]) -> int:
    for line in lines:
        sys.stdout.write(f"{line}\n")
    return 0


def subcommand(kinds: Any, name: str, act: object, text: str, examples: str) -> ArgumentParser:
    """A command's grammar below `kinds`: what it does in a sentence, examples, and the function behind it."""
    made: ArgumentParser = kinds.add_parser(
        name, help=text, description=f"{text[0].upper()}{text[1:]}.", epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    made.set_defaults(act=act)
    return made


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
