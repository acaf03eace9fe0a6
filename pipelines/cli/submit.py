"""`vimctl submit`, `status`, `logs` and `cancel`: jobs on clusters, for whoever sits at this terminal."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections import deque
from typing import TYPE_CHECKING

from pipelines import presets
from pipelines.cli import common
from pipelines.cli.common import print_line
from vim_core.errors import DataError, VimError

if TYPE_CHECKING:
    from pipelines.cli.common import Subparsers
    from pipelines.jobs.api import Backend, JobSpec, JobState
    from pipelines.jobs.profile import Cluster
    from vim_core.config import PipelineConfig

DETACHED, LAST_LINES = 130, 8


def add_commands(subparsers: Subparsers) -> None:
    """Add the commands of this module."""
    submitting = common.subcommand(
        subparsers, "submit", submit, "run a preset, a component or a sweep on a cluster",
        {
            "submit --preset digits --cluster local": "the pipeline as a job; the same command attaches to it again",
            "submit prior --preset digits prior.steps=9": "one component, with another setting",
            "submit --sweep digits --detach": "a sweep; return once it is sent",
        },
    )  # fmt: skip
    common.add_settings(submitting, "[COMPONENT] key=value …", f"the sweep's own, else {presets.default()}")
    submitting.add_argument("--sweep", default="", metavar="FILE", help="run this sweep, a name or a YAML file")
    submitting.add_argument(
        "--from", dest="start", default="", metavar="COMPONENT", help="make it and what follows again"
    )
    submitting.add_argument("--only", action="store_true", help="run just COMPONENT; fail where an input is missing")
    submitting.add_argument("--force", action="store_true", help="run again although the artifact exists")
    submitting.add_argument(
        "--detach", action="store_true", help="return once it is sent; a lost one is not sent again"
    )
    looking = common.subcommand(
        subparsers, "status", status, "say what runs, what is unfinished, what was made last",
        {
            "status": "the local cluster and the root of the default preset",
            "status --preset digits --cluster my-gke.yaml": "of another cluster",
        },
    )  # fmt: skip
    common.add_settings(looking)
    reading = common.subcommand(
        subparsers, "logs", logs, "print the output of a job on a cluster",
        {"logs": "of the newest job", "logs -f vim-digits-0123456789ab-a1": "of this one, until it is over"},
    )  # fmt: skip
    reading.add_argument(
        "job", nargs="?", default="", metavar="JOB", help="as `vimctl status` names it (default: newest)"
    )
    reading.add_argument("-f", "--follow", action="store_true", help="go on until the job is over")
    stopping = common.subcommand(
        subparsers, "cancel", cancel, "stop a job on a cluster",
        {
            "cancel vim-digits-0123456789ab-a1": "finished components are kept",
            "cancel vim-digits-0123456789ab-a1 --cluster my-gke.yaml": "on another cluster",
        },
    )  # fmt: skip
    stopping.add_argument("job", metavar="JOB", help="as `vimctl status` names it")
    for parser in (submitting, looking, reading, stopping):
        parser.add_argument(
            "--cluster", default="local",
            help="a profile's name or a YAML file, see `vimctl cluster list` (default: local)",
        )  # fmt: skip
    # Clusters run it; people need not know it, so the list of commands leaves it out.
    hidden = subparsers.add_parser("job", description="Run the spec of a job; clusters do this.")
    hidden.add_argument("spec", metavar="SPEC_URI", help="where `vimctl submit` stored it")
    hidden.set_defaults(action=job)


def submit(arguments: Namespace) -> int:
    """`vimctl submit`: send a job or attach to it. Raises `VimError` where the cluster does not answer."""
    from pipelines.jobs import profile, request, submission

    cluster = profile.load(arguments.cluster)
    spec, config = request.asked(arguments, cluster)
    finished = request.finished(spec, config, print_line)
    if finished:
        print_line(f"finished already, no job is sent (--force makes it again): {finished}")
        return 0
    heard = Heard()
    try:
        state = submission.submit(cluster, spec, heard.say, not arguments.detach)
    except KeyboardInterrupt:
        stop = f"{_hint('cancel', cluster)} {heard.job or 'JOB'}"
        print_line(f"\ndetached; a job that was sent goes on. The same command attaches to it again, `{stop}` stops it")
        return DETACHED
    if arguments.detach:
        print_line(f"follow it: {_hint('logs -f', cluster)} {state.identity}")
        return 0
    return _ended(cluster, spec, config, state, heard)


def status(arguments: Namespace) -> int:
    """`vimctl status`."""
    from pipelines.jobs import profile, submission
    from pipelines.jobs import status as standing

    cluster = profile.load(arguments.cluster)
    config = presets.load(arguments.preset, common.only_overrides(arguments.words))
    root = submission.placed(cluster, config).run.root
    try:
        jobs = submission.backend(cluster).jobs()
    except VimError as error:
        # What lies below the root can be told without the cluster.
        print_line(f"{error}")
        jobs = []
    for line in standing.lines(root, cluster, jobs):
        print_line(line)
    return 0


def logs(arguments: Namespace) -> int:
    """`vimctl logs`. Raises `DataError` where the cluster knows no such job."""
    from pipelines.jobs import profile, submission

    cluster = profile.load(arguments.cluster)
    jobs = submission.backend(cluster)
    state = _chosen(jobs, cluster, arguments.job)
    if arguments.follow and not state.over:
        try:
            state = submission.follow(jobs, state.identity, print_line, cluster.retries)
        except KeyboardInterrupt:
            print_line("\ndetached; the job goes on")
            return DETACHED
    else:
        for line in submission.so_far(jobs, state.identity):
            print_line(line)
    print_line(f"{state.identity} {state.status}{f': {state.message}' if state.message else ''}")
    return 0


def cancel(arguments: Namespace) -> int:
    """`vimctl cancel`. Raises `DataError` where the cluster knows no such job."""
    from pipelines.jobs import profile, submission

    cluster = profile.load(arguments.cluster)
    jobs = submission.backend(cluster)
    state = _chosen(jobs, cluster, arguments.job)
    if state.over:
        print_line(f"{state.identity} is over already: {state.status}")
        return 0
    jobs.stop(state.identity)
    print_line(
        f"{state.identity} is stopped; finished components are kept, unfinished ones continue when it is sent again"
    )
    return 0


def job(arguments: Namespace) -> int:
    """`vimctl job`: what a cluster runs."""
    from pipelines.jobs import job as running

    return running.run(arguments.spec)


class Heard:
    """Prints what it is told, and keeps the last lines and the name of the job."""

    def __init__(self) -> None:
        self.last: deque[str] = deque(maxlen=LAST_LINES)
        self.job = ""

    def say(self, line: str) -> None:
        """Print one line."""
        from pipelines.jobs import specs

        # The first lines are the submitter's own and name the job.
        found = None if self.job else specs.NAME.search(line)
        self.job = found[0] if found else self.job
        self.last.append(line)
        print_line(line)


def _ended(cluster: Cluster, spec: JobSpec, config: PipelineConfig, state: JobState, heard: Heard) -> int:
    from pipelines.jobs import request, submission

    if submission.succeeded(state):
        result = request.outcome(spec, config, print_line) or "its result is not there any more"
        print_line(f"{state.identity} succeeded: {result}")
        return 0
    where = f" on {state.node}" if state.node else ""
    sys.stderr.write(f"vimctl: {state.identity} {state.status}{where}: {state.message}\n")
    sys.stderr.write("".join(f"  | {line}\n" for line in heard.last))
    sys.stderr.write(f"the whole log: {_hint('logs', cluster)} {state.identity}\n")
    return 1


def _chosen(jobs: Backend, cluster: Cluster, name: str) -> JobState:
    known = jobs.jobs()
    found = [state for state in known if state.identity == name or not name]
    if not found:
        what = f"no job {name!r}" if name else "no job"
        rest = f"; it has {', '.join(state.identity for state in known[:5])}" if known else ""
        raise DataError(f"cluster {cluster.name} knows {what}{rest}")
    return found[0]


def _hint(words: str, cluster: Cluster) -> str:
    return f"vimctl {words}" + ("" if cluster.here else f" --cluster {cluster.name}")
