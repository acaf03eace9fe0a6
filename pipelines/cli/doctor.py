"""`vimctl doctor`: look at everything a run needs, and say what to do about what is missing."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from typing import TYPE_CHECKING

from pipelines.cli import common

if TYPE_CHECKING:
    from pipelines.cli.common import Subparsers
    from pipelines.doctor.findings import Check, Finding, Subject

STYLES = {"ok": "green", "warn": "yellow", "FAIL": "bold red"}


def add_commands(subparsers: Subparsers) -> None:
    """Add `vimctl doctor`."""
    made = common.subcommand(
        subparsers, "doctor", examine, "look at all that a run needs; say what to do",
        {
            "doctor --preset digits": "this machine, the root, MLflow, weights",
            "doctor --preset digits --cluster ray --try-job": "a cluster too, and whether a job starts on it",
        },
    )  # fmt: skip
    common.add_settings(made)
    made.add_argument("--cluster", default="", help="a cluster's profile, by name or YAML file")
    made.add_argument("--try-job", action="store_true", help="also start a job there that imports VIM (up to a minute)")
    made.add_argument("--json", action="store_true", help="print JSON")


def examine(arguments: Namespace) -> int:
    """`vimctl doctor`: 0 where nothing failed, else 1. Raises `ConfigError` for wrong settings or a wrong profile."""
    from pipelines import presets
    from pipelines.doctor import examining
    from pipelines.doctor.findings import FAIL, Subject
    from pipelines.jobs import profile

    chosen = profile.load(arguments.cluster) if arguments.cluster else None
    subject = Subject(presets.load(arguments.preset, arguments.words), chosen, arguments.try_job)
    found = examining.examine(subject, checks())
    if arguments.json:
        sys.stdout.write(json.dumps([vars(each) for each in found], indent=1) + "\n")
    else:
        _print(found, subject)
    return int(any(each.status == FAIL for each in found))


def checks() -> list[Check]:
    """All of them, in the order in which they are told."""
    from pipelines.doctor import environment, kubernetes_cluster, mlflow_server, ray_cluster, storage, weights
    from pipelines.doctor.findings import Check

    def on(kind: str, subject: Subject) -> bool:
        return subject.cluster is not None and subject.cluster.kind == kind

    def joined(subject: Subject) -> bool:
        return subject.cluster is None and bool(subject.run.ray_address)

    return [
        Check("python", environment.python),
        Check("packages", environment.packages),
        Check("TPU stacks", environment.tpu_stacks),
        Check("machine", environment.machine),
        Check("disks", environment.disks),
        Check("root", storage.root),
        Check("MLflow", mlflow_server.server),
        Check("ingest.source", weights.source),
        Check("weights", weights.files, seconds=60),
        Check("run.ray_address", ray_cluster.address, needs=joined),
        Check("cluster", ray_cluster.cluster, needs=lambda each: on("jobs", each) and not each.try_job),
        Check("cluster", ray_cluster.cluster, 10 + ray_cluster.TRY_S, lambda each: on("jobs", each) and each.try_job),
        Check("kubernetes profile", kubernetes_cluster.fields, needs=lambda each: on("kubernetes", each)),
        Check("kubernetes API", kubernetes_cluster.api, 30, lambda each: on("kubernetes", each)),
    ]


def _print(found: list[Finding], subject: Subject) -> None:
    from rich.console import Console
    from rich.text import Text

    from pipelines.doctor.findings import FAIL, WARN

    console = Console(soft_wrap=True, highlight=False)
    for each in found:
        console.print(
            Text.assemble((f"{each.status:<5}", STYLES[each.status]), (f"{each.check}: ", "bold"), each.found)
        )
        if each.advice:
            console.print(Text.assemble((f"{'':5}→ ", "dim"), each.advice))
    failed, doubtful = (sum(each.status == kind for each in found) for kind in (FAIL, WARN))
    where = f" on {subject.cluster.name}" if subject.cluster else ""
    console.print(f"{subject.config.preset}{where}: {len(found)} looked at, {failed} failed, {doubtful} doubtful")
