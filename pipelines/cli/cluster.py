"""`vimctl cluster`: start and stop a cluster on this machine, list the profiles."""

from __future__ import annotations

import os
from argparse import Namespace
from typing import TYPE_CHECKING, Any

from pipelines.cli import common
from pipelines.cli.common import print_line

if TYPE_CHECKING:
    from pipelines.cli.common import Subparsers


def add_commands(subparsers: Subparsers) -> None:
    """Add `vimctl cluster`."""
    clusters = common.group(
        subparsers, "cluster", "start and stop a cluster on this machine, list known clusters",
        {
            "cluster up --nodes 3": "a head and two workers on this machine, with a token, on loopback",
            "submit --preset digits --cluster local": "the whole pipeline on it",
            "cluster down": "stop that cluster",
        },
    )  # fmt: skip
    started = common.subcommand(
        clusters, "up", up, "start a Ray cluster on this machine; the profile `local` is it",
        {
            "cluster up": "a head alone, with all CPUs of the machine",
            "cluster up --nodes 3 --cpus 2": "a head and two workers of two CPUs",
        },
    )  # fmt: skip
    started.add_argument("--nodes", type=int, default=1, help="head and workers (default: %(default)s, a head alone)")
    started.add_argument(
        "--cpus", type=int, default=0,
        help="logical CPUs of each worker, or of a head alone; a training asks for run.threads of them (default: the "
        "machine's)",
    )  # fmt: skip
    started.add_argument(
        "--port", type=int, default=8265, help="port of dashboard and Jobs API (default: %(default)s, or a free one)"
    )
    about = "end the cluster that `up` started, and nothing else"
    examples = {"cluster down": "its processes end", "cluster list": "no job is left on it"}
    common.subcommand(clusters, "down", down, about, examples)
    about = "list the profiles of clusters and whether they answer"
    examples = {"cluster list": "name, kind, address, jobs", "doctor --cluster local": "more of one of them"}
    common.subcommand(clusters, "list", show, about, examples)


def up(arguments: Namespace) -> int:
    """`vimctl cluster up`. Raises `ConfigError` where one runs already."""
    from pipelines.jobs import local_cluster

    cores = len(os.sched_getaffinity(0))
    cpus = arguments.cpus or cores
    record = local_cluster.up(arguments.nodes, cpus, arguments.port, print_line)
    print_line(
        f"{len(record.nodes)} node{'s' if len(record.nodes) > 1 else ''} at {record.address}, on loopback; the token"
    )
    print_line(f"for submissions and Ray's dashboard is in {record.token_file}")
    print_line("submit to it:  vimctl submit --preset digits --cluster local")
    if cpus < cores:
        print_line(f"a training asks for {cores} CPUs here unless run.threads says otherwise: give run.threads={cpus}")
    return 0


def down(arguments: Namespace) -> int:
    """`vimctl cluster down`."""
    from pipelines.jobs import local_cluster

    record = local_cluster.down()
    print_line("no local cluster was running" if record is None else f"local cluster at {record.address} is stopped")
    return 0


def show(arguments: Namespace) -> int:
    """`vimctl cluster list`."""
    from pipelines.jobs import profile

    names = profile.names()
    width = max(map(len, names))
    for name in names:
        cluster = profile.load(name)
        where = cluster.address or cluster.kubernetes.context or "-"
        print_line(f"{name:<{width}}  {cluster.kind:<10}  {where:<24}  {_answer(cluster)}")
    return 0


def _answer(cluster: Any) -> str:
    from pipelines.jobs import submission
    from vim_core.errors import VimError

    try:
        jobs = submission.backend(cluster).jobs()
    except VimError as error:
        return " ".join(str(error).split())
    running = sum(not job.finished for job in jobs)
    return f"answers, {running} of {len(jobs)} jobs unfinished"
