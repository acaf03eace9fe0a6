"""`vimctl cluster`: start and stop a cluster on this machine, list the profiles."""

from __future__ import annotations

import os
import sys
from argparse import Namespace
from typing import TYPE_CHECKING, Any

from pipelines.cli import commands

if TYPE_CHECKING:
    from argparse import ArgumentParser

TEXT = """\
examples:
  vimctl cluster up --nodes 3                     a head and two workers on this machine, with a token, on loopback
  vimctl submit --preset digits --cluster local   the whole pipeline on it
  vimctl cluster list                             every profile, and whether its cluster answers
  vimctl cluster down                             end just that cluster
"""


def grammar(made: ArgumentParser) -> None:
    """The words after `vimctl cluster`."""
    kinds = made.add_subparsers(metavar="up|down|list", required=True)
    started = _kind(kinds, "up", up, "start a Ray cluster on this machine; the profile `local` is it")
    started.add_argument("--nodes", type=int, default=1, help="head and workers (default: %(default)s, a head alone)")
    started.add_argument(
        "--cpus", type=int, default=0,
        help="logical CPUs of each worker, or of a head alone; a training asks for run.threads of them (default: the "
        "machine's)",
    )  # fmt: skip
    started.add_argument(
        "--port", type=int, default=8265, help="of dashboard and Jobs API (default: %(default)s, or a free one)"
    )
    _kind(kinds, "down", down, "end the cluster that `up` started, and nothing else")
    _kind(kinds, "list", show, "list the profiles of clusters and whether they answer")


def up(arguments: Namespace) -> int:
    """`vimctl cluster up`. Raises `ConfigError` where one runs already."""
    from pipelines.jobs import local

    cores = len(os.sched_getaffinity(0))
    cpus = arguments.cpus or cores
    record = local.up(arguments.nodes, cpus, arguments.port, _say)
    _say(f"{len(record.nodes)} node{'s' if len(record.nodes) > 1 else ''} at {record.address}, on loopback; the token")
    _say(f"that submitting and Ray's dashboard want lies in {record.token_file}")
    _say("submit to it:  vimctl submit --preset digits --cluster local")
    if cpus < cores:
        _say(f"a training asks for {cores} CPUs here unless run.threads says otherwise: give run.threads={cpus}")
    return 0


def down(arguments: Namespace) -> int:
    """`vimctl cluster down`."""
    from pipelines.jobs import local

    record = local.down()
    _say("no local cluster was running" if record is None else f"the local cluster at {record.address} is gone")
    return 0


def show(arguments: Namespace) -> int:
    """`vimctl cluster list`."""
    from pipelines.jobs import profile

    names = profile.names()
    width = max(map(len, names))
    for name in names:
        cluster = profile.load(name)
        where = cluster.address or cluster.kubernetes.context or "-"
        _say(f"{name:<{width}}  {cluster.kind:<10}  {where:<24}  {_answer(cluster)}")
    return 0


def _answer(cluster: Any) -> str:
    from pipelines.jobs import submission
    from vim_core.errors import VimError

    try:
        jobs = submission.backend(cluster).jobs()
    except VimError as error:
        return " ".join(str(error).split())
    running = sum(not job.over for job in jobs)
    return f"answers, {running} of {len(jobs)} jobs not over"


def _kind(kinds: Any, name: str, act: object, text: str) -> ArgumentParser:
    return commands.subcommand(kinds, name, act, text, TEXT)


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
