"""`vimctl ui` and `cluster`: MLflow, Dagster and a Ray cluster on this machine; the other clusters are listed."""

from __future__ import annotations

import os
from argparse import Namespace

from components.contract.commands import command
from pipelines import presets
from pipelines.cli import common
from pipelines.cli.common import print_line
from vim_core.errors import VimError


def add_commands(subparsers: common.Subparsers) -> None:
    """Add the commands of this module."""
    serving = common.subcommand(
        subparsers, "ui", serve, "start MLflow and Dagster on 127.0.0.1 and print their addresses",
        ("ui --preset digits", "until Ctrl-C"),
        ("ui --root /mnt/runs --cluster my-gke.yaml", "of another root, with a link to a cluster's Ray dashboard"),
    )  # fmt: skip
    common.add_settings(serving)
    serving.add_argument("--root", help="the artifact root, short for run.root=…")
    serving.add_argument(
        "--cluster", default="", help="whose Ray dashboard to link (default: the local one, if it runs)"
    )
    for name, port in (("mlflow", 5000), ("dagster", 3000)):
        serving.add_argument(
            f"--{name}-port",
            type=common.PORT,
            default=port,
            help="port to listen at (default: %(default)s, or a free one)",
        )
    clusters = common.group(
        subparsers, "cluster", "start and stop a cluster on this machine, list known clusters",
        ("cluster up --nodes 3", "a head and two workers on this machine, with a token, on loopback"),
        ("submit --preset digits --cluster local", "the whole pipeline on it"),
        ("cluster down", "stop that cluster"),
    )  # fmt: skip
    starting = common.subcommand(
        clusters, "up", up, "start a Ray cluster on this machine; the profile `local` is it",
        ("cluster up", "a head alone, with all CPUs of the machine"),
        ("cluster up --nodes 3 --cpus 2", "a head and two workers of two CPUs"),
    )  # fmt: skip
    starting.add_argument(
        "--nodes", type=common.POSITIVE, default=1, help="head and workers (default: %(default)s, a head alone)"
    )
    starting.add_argument(
        "--cpus", type=common.COUNT, default=0,
        help="logical CPUs of each worker, or of a head alone, which trainings share (default: the machine's)",
    )  # fmt: skip
    starting.add_argument(
        "--port",
        type=common.PORT,
        default=8265,
        help="port of dashboard and Jobs API (default: %(default)s, or a free one)",
    )
    common.subcommand(
        clusters, "down", down, "end the cluster that `up` started, and nothing else",
        ("cluster down", "its processes end"),
        ("cluster list", "no job is left on it"),
    )  # fmt: skip
    common.subcommand(
        clusters, "list", list_clusters, "list the profiles of clusters and whether they answer",
        ("cluster list", "name, kind, address, jobs"),
        ("doctor --cluster local", "more of one of them"),
    )  # fmt: skip


def serve(arguments: Namespace) -> int:
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
    return ui.serve(config, servers, links, common.console())


def ray_links(name: str) -> list[str]:
    """The dashboard of a cluster by name; without a name that of the local one, where it runs.

    Raises:
        ConfigError: there is no such cluster.
        VimError: it does not answer.
    """
    from pipelines.jobs import profile, submission

    try:
        cluster = profile.load(name or profile.LOCAL)
        url = submission.backend(cluster).dashboard()
    except VimError:
        if name:
            raise
        return []  # the local cluster was not started: show the other servers
    if not url:
        return [f"no dashboard is known of {cluster.name}"] if name else []
    return [f"{url} ({cluster.name})"]


def up(arguments: Namespace) -> int:
    """`vimctl cluster up`. Raises `ConfigError` where one runs already."""
    from pipelines.jobs import local_cluster, profile

    cpus = arguments.cpus or len(os.sched_getaffinity(0))
    record = local_cluster.up(arguments.nodes, cpus, arguments.port, print_line)
    print_line(
        f"{len(record.nodes)} node{'s' if len(record.nodes) > 1 else ''} at {record.address}, on loopback; the token"
    )
    print_line(f"for submissions and Ray's dashboard is in {record.token_file}")
    print_line(f"submit to it:  {command('submit', preset=presets.default(), cluster=profile.LOCAL)}")
    return 0


def down(arguments: Namespace) -> int:
    """`vimctl cluster down`."""
    from pipelines.jobs import local_cluster

    record = local_cluster.down()
    print_line("no local cluster was running" if record is None else f"local cluster at {record.address} is stopped")
    return 0


def list_clusters(arguments: Namespace) -> int:
    """`vimctl cluster list`."""
    from pipelines.jobs import profile, submission

    names = profile.names()
    width = max(map(len, names))
    for name in names:
        cluster = profile.load(name)
        where = cluster.address or cluster.kubernetes.context or "-"
        try:
            jobs = submission.backend(cluster).jobs()
            answer = f"answers, {sum(not job.finished for job in jobs)} of {len(jobs)} jobs unfinished"
        except VimError as error:
            answer = " ".join(str(error).split())
        print_line(f"{name:<{width}}  {cluster.kind:<10}  {where:<24}  {answer}")
    return 0
