"""`vimctl init`: a commented preset that fits a user's images and this machine."""

from __future__ import annotations

import os
import re
import tempfile
from argparse import Namespace
from pathlib import Path

from components.contract.commands import command
from pipelines.cli import common
from vim_core.errors import ConfigError


def add_commands(subparsers: common.Subparsers) -> None:
    """Add `vimctl init`."""
    parser = common.subcommand(
        subparsers, "init", run, "look at your images and write a preset that fits them",
        ("init PICTURES", "a folder; the preset is PICTURES.yaml in this one"),
        ("init gs://BUCKET/PICTURES --out birds.yaml --minutes 60", "more time: larger images and more steps"),
    )  # fmt: skip
    parser.add_argument("source", metavar="FOLDER_OR_URI", help="images in any layout that ingest reads")
    parser.add_argument("--out", default="", metavar="FILE", help="the preset (default: the folder's name and .yaml)")
    parser.add_argument(
        "--minutes", type=common.POSITIVE_FLOAT, default=5.0,
        help="time for the complete run on this machine (default: %(default)g)",
    )  # fmt: skip
    parser.add_argument("--force", action="store_true", help="replace the file if it exists")


def run(arguments: Namespace) -> int:
    """`vimctl init`. Raises `ConfigError` for a file that exists, `DataError` for a source without usable images."""
    from components.proposal.choices import propose
    from components.proposal.document import describe, document
    from components.proposal.survey import survey
    from components.proposal.timing import MeasuredSteps
    from vim_core.storage import io

    given = arguments.source
    source = given if given.startswith("builtin:") or not io.is_local(given) else io.absolute(given)
    path = Path(arguments.out or f"{file_stem(source)}.yaml")
    if path.suffix not in (".yaml", ".yml"):
        raise ConfigError(f"--out={arguments.out}: a preset's file ends in .yaml")
    if path.exists() and not arguments.force:
        raise ConfigError(f"{path}: exists; give another file with --out, or --force to replace it")
    console = common.console()
    common.configure_logging(console)
    with tempfile.TemporaryDirectory(prefix="vim-init-") as work:
        found = survey(source, work)
        common.print_field(console, "images", describe(found))
        common.print_field(console, "measuring", "a few steps of each training on this machine")
        timer = MeasuredSteps(found.pixels, len(found.classes), work)
        proposal = propose(found, timer, arguments.minutes, path.stem)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(document(proposal, found, os.fspath(path), arguments.minutes), encoding="utf-8")
    config = proposal.config
    trained = [f"{getattr(config, name).steps:,} steps of {name}" for name in ("quantize", "prior")]
    size, codes = config.quantize.image_size, config.quantize.codebook.codes
    common.print_field(console, "preset", f"{path}: {size} x {size} pixels, {codes} codes, {', '.join(trained)}")
    common.print_field(console, "time", f"about {proposal.seconds / 60:.0f} minutes on this machine")
    common.print_field(console, "next", command("run", preset=os.fspath(path)))
    return 0


def file_stem(source: str) -> str:
    """A file name from the last part of a path or URI."""
    return re.sub(r"[^\w-]+", "-", source.rstrip("/").rsplit("/", 1)[-1].rsplit(":", 1)[-1]).strip("-") or "images"
