"""`vimctl submit`, `status`, `logs` and `cancel`: jobs on clusters, from this terminal."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections import deque
from typing import TYPE_CHECKING

from components.contract.commands import command
from pipelines import presets
from pipelines.cli import common
from pipelines.cli.common import print_line
from vim_core.errors import DataError, VimError

if TYPE_CHECKING:
    from pipelines.jobs.api import Backend, JobState
    from pipelines.jobs.profile import Cluster

DETACHED, LAST_LINES = 130, 8
DEFAULT_CLUSTER = "local"


def add_commands(subparsers: common.Subparsers) -> None:
    """Add the commands of this module."""
    submitting = common.subcommand(
        subparsers, "submit", submit, "run a preset, a component or a sweep on a cluster",
        ("submit --preset digits --cluster local", "the pipeline as a job; the same command attaches to it again"),
        ("submit prior --preset digits prior.steps=9", "one component, with another setting"),
        ("submit --sweep digits --detach", "a sweep; return once it is sent"),
    )  # fmt: skip
    common.add_settings(submitting, "[COMPONENT] key=value …", f"the sweep's own, else {presets.default()}")
    submitting.add_argument("--sweep", default="", metavar="FILE", help="run this sweep, a name or a YAML file")
    common.add_selection(submitting)
    submitting.add_argument(
        "--detach", action="store_true", help="return once the job is sent; a lost job is not sent again"
    )
    looking = common.subcommand(
        subparsers, "status", status, "print jobs, unfinished work and the newest artifacts",
        ("status", "the local cluster and the root of the default preset"),
        ("status --preset digits --cluster my-gke.yaml", "of another cluster"),
    )  # fmt: skip
    common.add_settings(looking)
    reading = common.subcommand(
        subparsers, "logs", logs, "print the output of a job on a cluster",
        ("logs", "of the newest job"),
        ("logs -f vim-digits-0123456789ab-a1", "of this job, until it has ended"),
    )  # fmt: skip
    reading.add_argument(
        "job", nargs="?", default="", metavar="JOB", help="as `vimctl status` names it (default: newest)"
    )
    reading.add_argument("-f", "--follow", action="store_true", help="continue until the job has ended")
    stopping = common.subcommand(
        subparsers, "cancel", cancel, "stop a job on a cluster",
        ("cancel vim-digits-0123456789ab-a1", "finished components are kept"),
        ("cancel vim-digits-0123456789ab-a1 --cluster my-gke.yaml", "on another cluster"),
    )  # fmt: skip
    stopping.add_argument("job", metavar="JOB", help="as `vimctl status` names it")
    for parser in (submitting, looking, reading, stopping):
        parser.add_argument(
            "--cluster", default=DEFAULT_CLUSTER,
            help="a profile's name or a YAML file, see `vimctl cluster list` (default: %(default)s)",
        )  # fmt: skip
    # Run by clusters only, so the list of commands leaves it out.
    hidden = subparsers.add_parser("job", description="Run the spec of a job; clusters do this.")
    hidden.add_argument("spec", metavar="SPEC_URI", help="where `vimctl submit` stored it")
    hidden.set_defaults(action=job)


def submit(arguments: Namespace) -> int:
    """`vimctl submit`: send a job or attach to it. Raises `VimError` where the cluster does not answer."""
    from pipelines.cli import job_request
    from pipelines.jobs import profile, specs, submission
    from pipelines.jobs.api import SUCCEEDED

    cluster = profile.load(arguments.cluster)
    spec, config = job_request.build_spec(arguments, cluster)
    looked_up = spec.command == "run" and not spec.start and not spec.force
    if looked_up and (finished := job_request.find_result(spec, config)):
        print_line(f"finished already, no job is sent (--force makes it again): {finished}")
        return 0
    last: deque[str] = deque(maxlen=LAST_LINES)
    job_id = ""

    def show(line: str) -> None:
        nonlocal job_id
        # The first lines are the submitter's own and contain the job's id.
        if not job_id and (match := specs.JOB_ID.search(line)):
            job_id = match[0]
        last.append(line)
        print_line(line)

    try:
        state = submission.submit(cluster, spec, show, not arguments.detach)
    except KeyboardInterrupt:
        return _detach(arguments.cluster, job_id)
    if arguments.detach:
        print_line(f"follow it: {_command(arguments.cluster, 'logs', '-f', state.job_id)}")
        return 0
    if state.status == SUCCEEDED:
        result = job_request.find_result(spec, config) or "its result does not exist any more"
        print_line(f"{state.job_id} succeeded: {result}")
        return 0
    where = f" on {state.node}" if state.node else ""
    sys.stderr.write(f"vimctl: {state.job_id} {state.status}{where}: {state.message}\n")
    sys.stderr.write("".join(f"  | {line}\n" for line in last))
    sys.stderr.write(f"the whole log: {_command(arguments.cluster, 'logs', state.job_id)}\n")
    return 1


def status(arguments: Namespace) -> int:
    """`vimctl status`."""
    from pipelines.jobs import profile, submission
    from pipelines.jobs.status import status_lines

    cluster = profile.load(arguments.cluster)
    config = presets.load(arguments.preset, common.only_overrides(arguments.words))
    root = submission.settings_on(cluster, config).run.root
    try:
        jobs = submission.backend(cluster).jobs()
    except VimError as error:
        # Files below the root can be listed without the cluster.
        print_line(f"{error}")
        jobs = []
    return common.print_lines(status_lines(root, cluster, jobs))


def logs(arguments: Namespace) -> int:
    """`vimctl logs`. Raises `DataError` where the cluster knows no such job."""
    from pipelines.jobs import submission

    cluster, jobs, state = _find_job(arguments)
    if arguments.follow and not state.finished:
        try:
            state = submission.follow(jobs, state.job_id, print_line, cluster.retries)
        except KeyboardInterrupt:
            return _detach(arguments.cluster, state.job_id)
    else:
        common.print_lines(submission.read_log(jobs, state.job_id))
    print_line(f"{state.job_id} {state.status}{f': {state.message}' if state.message else ''}")
    return 0


def cancel(arguments: Namespace) -> int:
    """`vimctl cancel`. Raises `DataError` where the cluster knows no such job."""
    _, jobs, state = _find_job(arguments)
    if state.finished:
        print_line(f"{state.job_id} has ended already: {state.status}")
        return 0
    jobs.stop(state.job_id)
    print_line(
        f"{state.job_id} is stopped; finished components are kept, unfinished ones continue when it is sent again"
    )
    return 0


def job(arguments: Namespace) -> int:
    """`vimctl job`: what a cluster runs."""
    from pipelines.cli import job_request

    return job_request.run_job(arguments.spec)


def _find_job(arguments: Namespace) -> tuple[Cluster, Backend, JobState]:
    """The job of this id, or the newest one without an id, on its cluster. Raises `DataError` where there is none."""
    from pipelines.jobs import profile, submission

    cluster, name = profile.load(arguments.cluster), arguments.job
    jobs = submission.backend(cluster)
    states = jobs.jobs()
    for state in states:
        if state.job_id == name or not name:
            return cluster, jobs, state
    missing = f"no job {name!r}" if name else "no job"
    rest = f"; it has {', '.join(state.job_id for state in states[:5])}" if states else ""
    raise DataError(f"cluster {cluster.name} knows {missing}{rest}")


def _detach(cluster: str, job_id: str) -> int:
    """Print how to go on with a job that nobody follows any more; returns the exit status."""
    if job_id:
        ways = f"follow it: {_command(cluster, 'logs', '-f', job_id)}\nstop it: {_command(cluster, 'cancel', job_id)}"
        print_line(f"\ndetached; {job_id} goes on\n{ways}")
    else:
        print_line(f"\ndetached before a job was sent, or seen; what runs: {_command(cluster, 'status')}")
    return DETACHED


def _command(cluster: str, *words: str) -> str:
    return command(*words, cluster="" if cluster == DEFAULT_CLUSTER else presets.absolute(cluster))
