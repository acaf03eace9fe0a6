"""`vimctl artifacts`: list, show, lineage, pin, unpin and gc on the artifacts of a root."""

from __future__ import annotations

import dataclasses
import json
from argparse import Namespace
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from pipelines.cli import common
from vim_core.errors import ConfigError
from vim_core.text import parse_duration

if TYPE_CHECKING:
    from components.contract.api import Artifact


def add_commands(subparsers: common.Subparsers) -> None:
    """Add `vimctl artifacts`."""
    kinds = common.group(
        subparsers, "artifacts", "list, inspect, pin and clean up artifacts",
        ("artifacts list", "newest first: size, time, pins, which reports show them"),
        ("artifacts lineage quantize/81", "up to the raw images, down to everything made from it"),
        ("artifacts gc --older-than 30d", "what is no longer needed; --delete removes it"),
    )  # fmt: skip
    listing = common.subcommand(
        kinds, "list", print_list, "list artifacts, newest first",
        ("artifacts list", "all of the preset's root"),
        ("artifacts list prior --root gs://bucket/vim", "of one component, in another root"),
    )  # fmt: skip
    listing.add_argument("words", nargs="*", metavar="COMPONENT", help="only artifacts of this one")
    showing = common.subcommand(
        kinds, "show", print_manifest, "print a manifest as text, or unchanged with --json",
        ("artifacts show prior/3fa2", "settings, inputs, metrics, files"),
        ("artifacts show prior/3fa2 --verify", "read every file again"),
    )  # fmt: skip
    showing.add_argument("--verify", action="store_true", help="read every file and compare its checksum")
    tracing = common.subcommand(
        kinds, "lineage", print_lineage, "print what it was made from and what was made from it",
        ("artifacts lineage quantize/81", "a tree in both directions"),
        ("artifacts lineage quantize/81 --json", "for programs"),
    )  # fmt: skip
    pinning = common.subcommand(
        kinds, "pin", change_pin, "keep it and all it was made from until unpinned",
        ("artifacts pin prior/3fa2", "gc does not remove it"),
        ("artifacts pin prior/3fa2 --reason 'the one of the paper'", "for others to read"),
    )  # fmt: skip
    pinning.add_argument("--reason", default="", help="why, for others")
    unpinning = common.subcommand(
        kinds, "unpin", change_pin, "remove the pin",
        ("artifacts unpin prior/3fa2", "gc may remove it again"),
        ("artifacts gc", "print what it would remove"),
    )  # fmt: skip
    pinning.set_defaults(pinned=True)
    unpinning.set_defaults(pinned=False)
    for parser in (showing, tracing, pinning, unpinning):
        parser.add_argument("artifact", metavar="ARTIFACT", help=common.ARTIFACT)
    collecting = common.subcommand(
        kinds, "gc", collect, "list what is no longer needed; --delete removes it",
        ("artifacts gc", "what would be removed, and why"),
        ("artifacts gc --older-than 30d --delete", "remove it, except what is younger"),
    )  # fmt: skip
    collecting.add_argument("--delete", action="store_true", help="remove the files; without this only print the plan")
    collecting.add_argument(
        "--older-than", default="7d", metavar="AGE",
        help="keep everything made, written or used in this time: 30m, 12h, 7d, 2w (default: %(default)s)",
    )  # fmt: skip
    collecting.add_argument(
        "--checkpoints", type=common.COUNT, default=1, metavar="N",
        help="keep the N newest complete ones of unfinished work and the best (default: %(default)s)",
    )  # fmt: skip
    for parser in (listing, showing, tracing, pinning, unpinning, collecting):
        common.add_root(parser)
        parser.add_argument("--json", action="store_true", help="print JSON")


def print_list(arguments: Namespace) -> int:
    """`vimctl artifacts list`. Raises `ConfigError` for an unknown or second component."""
    from components.artifacts import format, inventory

    if len(arguments.words) > 1:
        raise ConfigError(f"{' '.join(arguments.words)}: name one component, or none for all")
    root = _root(arguments)
    artifacts = inventory.artifacts(root, "".join(arguments.words))
    sweeps = inventory.published(root, inventory.SWEEPS)
    users = inventory.published(root, inventory.REPORTS) | {f"sweep {name}": each for name, each in sweeps.items()}
    rows = format.rows(artifacts, inventory.read_pins(root, (artifact.manifest.key for artifact in artifacts)), users)
    return _print(arguments, rows, format.table(rows))


def print_manifest(arguments: Namespace) -> int:
    """`vimctl artifacts show`. Raises `DataError` where a file is missing or changed."""
    from components.artifacts import format, store, usage

    root, artifact = _chosen(arguments)
    if arguments.verify:
        store.verify(artifact)
    pinned = usage.read_pin(root, *artifact.manifest.key)
    lines = [*format.manifest(artifact, pinned), *(["every file is as it was written"] if arguments.verify else [])]
    return _print(arguments, dataclasses.asdict(artifact.manifest), lines)


def print_lineage(arguments: Namespace) -> int:
    """`vimctl artifacts lineage`."""
    from components.artifacts import ancestry, inventory

    root, artifact = _chosen(arguments)
    artifacts = inventory.artifacts(root)
    up, down = ancestry.upstream(artifact, artifacts), ancestry.downstream(artifact, artifacts)
    lines = ["made from", *up.lines("  "), "made from it", *down.lines("  ")]
    return _print(arguments, {"upstream": dataclasses.asdict(up), "downstream": dataclasses.asdict(down)}, lines)


def change_pin(arguments: Namespace) -> int:
    """`vimctl artifacts pin` and `unpin`. Raises `DataError` for one that is in that state already."""
    from components.artifacts import usage

    root, artifact = _chosen(arguments)
    if arguments.pinned:
        record, change = usage.pin(root, artifact.manifest, arguments.reason), "pinned"
    else:
        record, change = usage.unpin(root, artifact.manifest), "was pinned"
    return _print(arguments, dataclasses.asdict(record), [f"{artifact.name}: {change} {record}"])


def collect(arguments: Namespace) -> int:
    """`vimctl artifacts gc`: a plan, or with --delete its execution."""
    from components.artifacts import format, gc

    rules = gc.Rules(parse_duration(arguments.older_than, "--older-than"), arguments.checkpoints)
    removed = gc.collect(_root(arguments), rules, arguments.delete)
    record = format.removed_record(removed, arguments.delete)
    return _print(arguments, record, format.removed(removed, arguments.delete))


def _root(arguments: Namespace) -> str:
    return common.artifact_config(arguments).run.root


def _chosen(arguments: Namespace) -> tuple[str, Artifact]:
    artifact = common.resolve(arguments.artifact, arguments)
    return _root(arguments), artifact


def _print(arguments: Namespace, record: Any, lines: Iterable[str]) -> int:
    return common.print_lines([json.dumps(record, indent=2)] if arguments.json else lines)
