"""`vimctl doctor`: check everything a run needs, and print a remedy for each failure."""

from __future__ import annotations

import json
from argparse import Namespace
from typing import TYPE_CHECKING

from pipelines.cli import common

if TYPE_CHECKING:
    from pipelines.doctor.checks import Check, Target

STYLES = {"ok": "green", "warn": "yellow", "FAIL": "bold red"}


def add_commands(subparsers: common.Subparsers) -> None:
    """Add `vimctl doctor`."""
    parser = common.subcommand(
        subparsers, "doctor", doctor, "check everything that a run needs, with remedies",
        ("doctor --preset digits", "this machine, the root, MLflow, weights"),
        ("doctor --preset digits --cluster ray --try-job", "a cluster too, and whether a job starts on it"),
    )  # fmt: skip
    common.add_settings(parser)
    parser.add_argument("--cluster", default="", help="a cluster's profile, by name or YAML file")
    parser.add_argument(
        "--try-job", action="store_true", help="also start a job there that imports VIM (up to a minute)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def doctor(arguments: Namespace) -> int:
    """`vimctl doctor`: 0 where nothing failed, else 1. Raises `ConfigError` for wrong settings or a wrong profile."""
    from rich.console import Console
    from rich.text import Text

    from pipelines import presets
    from pipelines.doctor.checks import FAIL, WARN, Target, run_checks
    from pipelines.jobs import profile

    cluster = profile.load(arguments.cluster) if arguments.cluster else None
    target = Target(presets.load(arguments.preset, arguments.words), cluster, arguments.try_job)
    results = run_checks(target, list_checks())
    if arguments.json:
        common.print_line(json.dumps([vars(result) for result in results], indent=1))
    else:
        console = Console(soft_wrap=True, highlight=False)
        for result in results:
            status = (f"{result.status:<5}", STYLES[result.status])
            console.print(Text.assemble(status, (f"{result.check}: ", "bold"), result.found))
            if result.advice:
                console.print(Text.assemble((f"{'':5}→ ", "dim"), result.advice))
        failed, warnings = (sum(result.status == kind for result in results) for kind in (FAIL, WARN))
        where = f" on {cluster.name}" if cluster else ""
        console.print(f"{target.config.preset}{where}: {len(results)} results, {failed} failed, {warnings} warnings")
    return int(any(result.status == FAIL for result in results))


def list_checks() -> list[Check]:
    """All checks, in the order of their output."""
    from pipelines.doctor import environment, kubernetes_cluster, mlflow_server, ray_cluster, storage, weights
    from pipelines.doctor.checks import Check

    def on(kind: str, target: Target) -> bool:
        return target.cluster is not None and target.cluster.kind == kind

    def joins_ray(target: Target) -> bool:
        return target.cluster is None and bool(target.run.ray_address)

    return [
        Check("python", environment.check_python),
        Check("packages", environment.check_packages),
        Check("TPU stacks", environment.check_tpu_stacks),
        Check("GPUs", environment.check_gpus, 60, lambda target: target.cluster is None and target.run.device != "cpu"),
        Check("threads", environment.check_threads),
        Check("memory", environment.check_memory),
        Check("/dev/shm", environment.check_shared_memory),
        Check("open files", environment.check_open_files),
        Check("disks", environment.check_disks),
        Check("root", storage.check_root),
        Check("MLflow", mlflow_server.check_server),
        Check("ingest.source", weights.check_source),
        Check("weights", weights.check_files, 60),
        Check("run.ray_address", ray_cluster.check_address, applies=joins_ray),
        Check("cluster", ray_cluster.check_cluster, applies=lambda each: on("jobs", each) and not each.try_job),
        Check(
            "cluster", ray_cluster.check_cluster, 10 + ray_cluster.JOB_TIMEOUT_S,
            lambda each: on("jobs", each) and each.try_job,
        ),
        Check("kubernetes profile", kubernetes_cluster.check_profile, applies=lambda each: on("kubernetes", each)),
        Check("kubernetes API", kubernetes_cluster.check_api, 30, lambda each: on("kubernetes", each)),
    ]  # fmt: skip
