"""`vimctl infra`: manifests for Kubernetes and files for docker compose, from the profile of a cluster."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING

from pipelines.cli import common
from vim_core.errors import ConfigError

if TYPE_CHECKING:
    from pipelines.cli.common import Subparsers

PORTS = range(1, 65536)


def add_commands(subparsers: Subparsers) -> None:
    """Add `vimctl infra`."""
    kinds = common.group(
        subparsers, "infra", "write manifests for Kubernetes, or files for docker compose on one machine",
        {
            "infra render --cluster my-gke.yaml --out manifests": "one file for each piece",
            "infra compose --out shared": "the same servers on one machine, for docker compose",
        },
    )  # fmt: skip
    render = common.subcommand(
        kinds, "render", render_manifests, "write Kubernetes manifests for a cluster's profile",
        {
            "infra render --cluster my-gke.yaml --out manifests": "then kubectl apply -f manifests",
            "infra render --cluster my-gke.yaml --out manifests --only mlflow gateway": "only these pieces",
        },
    )  # fmt: skip
    render.add_argument("--cluster", required=True, metavar="NAME|FILE", help="the profile, such as my-gke.yaml")
    render.add_argument("--only", nargs="+", default=[], metavar="PIECE", help="only these: mlflow, gateway, …")
    compose = common.subcommand(
        kinds, "compose", write_compose, "write docker compose files for one machine without Kubernetes",
        {
            "infra compose --out shared": "on https://mlflow.localhost:8443 and dagster.localhost",
            "infra compose --out shared --domain vim.example.org --port 443": "for others in the network",
        },
    )  # fmt: skip
    compose.add_argument(
        "--domain", default="localhost", help="browsers go to mlflow.DOMAIN and dagster.DOMAIN (default: %(default)s)"
    )
    compose.add_argument("--port", type=int, default=8443, help="port of https on this machine (default: %(default)s)")
    for each in (render, compose):
        each.add_argument("--out", required=True, metavar="DIR", help="the folder to write to")
        each.add_argument("--preset", default="digits", help="what Dagster shows (default: %(default)s)")


def render_manifests(arguments: Namespace) -> int:
    """`vimctl infra render`. Raises `ConfigError` naming what the profile lacks, `StorageError` for the folder."""
    from pipelines.deploying import deployment, rendering
    from pipelines.jobs import profile

    made = deployment.checked(profile.load(arguments.cluster), arguments.preset)
    return common.print_lines(map(str, rendering.write(made, arguments.out, arguments.only)))


def write_compose(arguments: Namespace) -> int:
    """`vimctl infra compose`. Raises `ConfigError` for a name or port that cannot be, `StorageError` for the folder."""
    from pipelines.deploying import compose, deployment, rendering

    deployment.check_names(domain=arguments.domain, preset=arguments.preset)
    if arguments.port not in PORTS:
        raise ConfigError(f"--port {arguments.port}: a port is a number from 1 to 65535")
    files = compose.files(arguments.preset, arguments.domain, arguments.port)
    return common.print_lines(map(str, rendering.write_files(arguments.out, files)))
