"""`vimctl infra`: manifests for Kubernetes and files for docker compose, from the profile of a cluster."""

from __future__ import annotations

import sys
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.cli import commands
from vim_core.errors import ConfigError

if TYPE_CHECKING:
    from argparse import ArgumentParser

TEXT = """\
examples:
  vimctl infra render --cluster my-gke.yaml --out manifests     one file for each piece; kubectl apply -f manifests
  vimctl infra render --cluster my-gke.yaml --out manifests --only mlflow gateway
  vimctl infra compose --out shared                             the same servers on one machine, for docker compose
"""
PORTS = range(1, 65536)


def grammar(made: ArgumentParser) -> None:
    """The words after `vimctl infra`."""
    kinds = made.add_subparsers(metavar="render|compose", required=True)
    render = _kind(kinds, "render", render_manifests, "write Kubernetes manifests for a cluster's profile")
    render.add_argument("--cluster", required=True, metavar="NAME|FILE", help="the profile, such as my-gke.yaml")
    render.add_argument("--only", nargs="+", default=[], metavar="PIECE", help="only these: mlflow, gateway, …")
    compose = _kind(kinds, "compose", write_compose, "write docker compose files for one machine without Kubernetes")
    compose.add_argument(
        "--domain", default="localhost", help="browsers go to mlflow.DOMAIN and dagster.DOMAIN (default: %(default)s)"
    )
    compose.add_argument("--port", type=int, default=8443, help="of https on this machine (default: %(default)s)")
    for each in (render, compose):
        each.add_argument("--out", required=True, metavar="DIR", help="the folder to write to")
        each.add_argument("--preset", default="digits", help="what Dagster shows (default: %(default)s)")


def render_manifests(arguments: Namespace) -> int:
    """`vimctl infra render`. Raises `ConfigError` naming what the profile lacks, `StorageError` for the folder."""
    from pipelines.deploying import deployment, rendering
    from pipelines.jobs import profile

    made = deployment.checked(profile.load(arguments.cluster), arguments.preset)
    return _say(rendering.write(made, arguments.out, arguments.only))


def write_compose(arguments: Namespace) -> int:
    """`vimctl infra compose`. Raises `ConfigError` for a name or port that cannot be, `StorageError` for the folder."""
    from pipelines.deploying import compose, deployment, rendering

    deployment.check_names(domain=arguments.domain, preset=arguments.preset)
    if arguments.port not in PORTS:
        raise ConfigError(f"--port {arguments.port}: a port is a number from 1 to 65535")
    return _say(rendering.write_files(arguments.out, compose.files(arguments.preset, arguments.domain, arguments.port)))


def _kind(kinds: Any, name: str, act: object, text: str) -> ArgumentParser:
    return commands.subcommand(kinds, name, act, text, TEXT)


def _say(paths: list[Path]) -> int:
    for path in paths:
        sys.stdout.write(f"{path}\n")
    return 0
