"""`vimctl artifacts`: list, show, lineage, pin, unpin and gc on the artifacts of a root."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from pipelines import presets
from pipelines.cli import commands
from vim_core.errors import ConfigError

if TYPE_CHECKING:
    from argparse import ArgumentParser

    from components.contract.api import Artifact

TEXT = """\
examples:
  vimctl artifacts list prior                     newest first: size, time, pins, which reports show them
  vimctl artifacts show prior/3fa2 --verify       settings, inputs, metrics, files; read every file again
  vimctl artifacts lineage quantize/81            up to the raw images, down to everything made from it
  vimctl artifacts pin prior/3fa2 --reason "the one of the paper"
  vimctl artifacts gc --older-than 30d            what nobody needs any more; --delete removes it
"""


def grammar(made: ArgumentParser) -> None:
    """The words after `vimctl artifacts`."""
    kinds = made.add_subparsers(metavar="list|show|lineage|pin|unpin|gc", required=True)
    listed = _kind(kinds, "list", show_list, "list artifacts, newest first")
    listed.add_argument("words", nargs="*", metavar="COMPONENT", help="only artifacts of this one")
    shown = _kind(kinds, "show", show_one, "print a manifest for people; --json as it is")
    shown.add_argument("--verify", action="store_true", help="read every file and compare its checksum")
    traced = _kind(kinds, "lineage", show_lineage, "what it was made from and what was made from it")
    pinned = _kind(kinds, "pin", pin, "keep it and all it was made from until unpinned")
    pinned.add_argument("--reason", default="", help="why, for others")
    freed = _kind(kinds, "unpin", unpin, "take the pin off")
    for each in (shown, traced, pinned, freed):
        each.add_argument(
            "artifact", metavar="ARTIFACT", help="COMPONENT/first digits of its fingerprint, or its folder"
        )
    _collecting(_kind(kinds, "gc", collect, "say what nobody needs any more; --delete removes it"))


def show_list(arguments: Namespace) -> int:
    """`vimctl artifacts list`. Raises `ConfigError` for an unknown or second component."""
    from components.artifacts import format, inventory

    if len(arguments.words) > 1:
        raise ConfigError(f"{' '.join(arguments.words)}: name one component, or none for all")
    root = _root(arguments)
    made = inventory.artifacts(root, "".join(arguments.words))
    shown = inventory.reports(root) | {f"sweep {name}": used for name, used in inventory.sweeps(root).items()}
    listed = format.rows(made, inventory.pins_of(root, made), shown)
    return _say(arguments, listed, format.table(listed))


def show_one(arguments: Namespace) -> int:
    """`vimctl artifacts show`. Raises `DataError` where a file is missing or changed."""
    import dataclasses

    from components.artifacts import format, pins, store

    root, made = _chosen(arguments)
    if arguments.verify:
        store.verify(made)
    found = pins.read(root, made.manifest.component, made.manifest.fingerprint)
    lines = [*format.manifest(made, found), *(["every file is as it was written"] if arguments.verify else [])]
    return _say(arguments, dataclasses.asdict(made.manifest), lines)


def show_lineage(arguments: Namespace) -> int:
    """`vimctl artifacts lineage`."""
    from components.artifacts import ancestry, inventory

    root, made = _chosen(arguments)
    known = inventory.artifacts(root)
    up, down = ancestry.upstream(made, known), ancestry.downstream(made, known)
    lines = ["made from", *up.lines("  "), "made from it", *down.lines("  ")]
    return _say(arguments, {"upstream": up.record(), "downstream": down.record()}, lines)


def pin(arguments: Namespace) -> int:
    """`vimctl artifacts pin`. Raises `DataError` for one that is pinned already."""
    import dataclasses

    from components.artifacts import pins, resolve

    root, made = _chosen(arguments)
    done = pins.pin(root, made.manifest, arguments.reason)
    return _say(arguments, dataclasses.asdict(done), [f"{resolve.name_of(made)}: pinned {done}"])


def unpin(arguments: Namespace) -> int:
    """`vimctl artifacts unpin`. Raises `DataError` for one that is not pinned."""
    import dataclasses

    from components.artifacts import pins, resolve

    root, made = _chosen(arguments)
    done = pins.unpin(root, made.manifest)
    return _say(arguments, dataclasses.asdict(done), [f"{resolve.name_of(made)}: was pinned {done}"])


def collect(arguments: Namespace) -> int:
    """`vimctl artifacts gc`: a plan, or with --delete its execution."""
    from components.artifacts import format
    from components.artifacts.gc import collect as collecting
    from components.artifacts.gc import plan

    rules = plan.Rules(plan.seconds(arguments.older_than), arguments.checkpoints)
    done = collecting.collect(_root(arguments), rules, arguments.delete)
    record = format.removed_record(done, arguments.delete)
    return _say(arguments, record, format.removed(done, arguments.delete))


def _kind(kinds: Any, name: str, act: object, text: str) -> ArgumentParser:
    made = commands.subcommand(kinds, name, act, text, TEXT)
    made.add_argument("--root", help="the artifact root, path or gs://… (default: the preset's, or VIM_ROOT)")
    made.add_argument("--preset", default=presets.default(), help="whose root it is (default: %(default)s)")
    made.add_argument("--json", action="store_true", help="print JSON")
    return made


def _collecting(made: ArgumentParser) -> None:
    made.add_argument("--delete", action="store_true", help="remove it; without this nothing is touched")
    made.add_argument(
        "--older-than", default="7d", metavar="AGE",
        help="nothing made, written or used since is removed: 30m, 12h, 7d, 2w (default: %(default)s)",
    )  # fmt: skip
    made.add_argument(
        "--checkpoints", type=int, default=1, metavar="N",
        help="of unfinished work keep the N newest whole ones and the best (default: %(default)s)",
    )  # fmt: skip


def _root(arguments: Namespace) -> str:
    if arguments.root:
        return str(arguments.root)
    return presets.load(arguments.preset, []).run.root


def _chosen(arguments: Namespace) -> tuple[str, Artifact]:
    from components.artifacts import inventory, resolve

    root = _root(arguments)
    return root, resolve.chosen(inventory.artifacts(root), arguments.artifact)


def _say(arguments: Namespace, record: Any, lines: Iterable[str]) -> int:
    if arguments.json:
        sys.stdout.write(json.dumps(record, indent=2) + "\n")
        return 0
    for line in lines:
        sys.stdout.write(f"{line}\n")
    return 0
