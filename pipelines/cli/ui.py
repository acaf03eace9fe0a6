"""`vimctl ui`: MLflow and Dagster on this machine, and the address of Ray's dashboard."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING

from pipelines import presets
from pipelines.cli import common
from vim_core.errors import VimError

if TYPE_CHECKING:
    from pipelines.cli.common import Subparsers

LOCAL = "local"
"""The cluster that `vimctl cluster up` starts."""


def add_commands(subparsers: Subparsers) -> None:
    """Add `vimctl ui`."""
    parser = common.subcommand(
        subparsers, "ui", run, "start MLflow and Dagster on 127.0.0.1 and print their addresses",
        {
            "ui --preset digits": "until Ctrl-C",
            "ui --root /mnt/runs --cluster my-gke.yaml": "of another root, with a link to a cluster's Ray dashboard",
        },
    )  # fmt: skip
    common.add_settings(parser)
    parser.add_argument("--root", help="the artifact root, short for run.root=…")
    parser.add_argument(
        "--cluster", default="", help="whose Ray dashboard to link (default: the local one, if it runs)"
    )
    for name, port in (("mlflow", 5000), ("dagster", 3000)):
        parser.add_argument(
            f"--{name}-port", type=int, default=port, help="port to listen at (default: %(default)s, or a free one)"
        )


def run(arguments: Namespace) -> int:
    """`vimctl ui`: serve until interrupted. Raises `ConfigError` for an unknown cluster."""
    from components.tracking.link import tracking_uri
    from pipelines.orchestration import ui

    overrides = common.only_overrides(arguments.words)
    if arguments.root is not None:
        overrides.append(f"run.root={arguments.root}")
    config = presets.load(arguments.preset, overrides)
    links = [("Ray", link) for link in ray_links(arguments.cluster)]
    uri = tracking_uri(config.run)
    if uri is None or uri.startswith("http"):
        links.insert(0, ("MLflow", uri or "off (run.tracking_uri=off)"))
    servers = ui.servers(config, arguments.preset, overrides, arguments.mlflow_port, arguments.dagster_port)
    return ui.serve(servers, links, common.console())


def ray_links(cluster: str) -> list[str]:
    """The dashboard of a cluster by name; without a name that of the local one, where it runs.

    Raises:
        ConfigError: there is no such cluster.
        VimError: it does not answer.
    """
    from pipelines.jobs import profile, submission

    if cluster:
        chosen = profile.load(cluster)
        url = submission.backend(chosen).dashboard()
        return [f"{url} ({chosen.name})" if url else f"no dashboard is known of {chosen.name}"]
    try:
        url = submission.backend(profile.load(LOCAL)).dashboard()
    except VimError:
        return []  # the local cluster was not started: show the other servers
    return [f"{url} ({LOCAL})"] if url else []
