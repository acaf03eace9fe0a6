"""`vimctl submit`, `status`, `logs` and `cancel`: jobs on clusters, for whoever sits at this terminal."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections import deque
from typing import TYPE_CHECKING

from pipelines import presets
from pipelines.cli import commands
from vim_core.errors import DataError, VimError

if TYPE_CHECKING:
    from argparse import ArgumentParser

    from pipelines.jobs.api import Backend, JobSpec, JobState
    from pipelines.jobs.profile import Cluster
    from vim_core.config import PipelineConfig

DETACHED, LAST_LINES = 130, 8


def submit_grammar(made: ArgumentParser) -> None:
    """The words after `vimctl submit`."""
    made.add_argument("words", nargs="*", metavar="[COMPONENT] key=value …", help="as for `vimctl run`")
    made.add_argument("--preset", default="", help=f"a preset's name or a YAML file (default: {presets.default()})")
    made.add_argument("--sweep", default="", metavar="FILE", help="run this sweep, a name or a YAML file")
    made.add_argument("--from", dest="start", default="", metavar="COMPONENT", help="make it and what follows again")
    made.add_argument("--only", action="store_true", help="run just COMPONENT; fail where an input is missing")
    made.add_argument("--force", action="store_true", help="run again although the artifact exists")
    made.add_argument("--detach", action="store_true", help="return once it is sent; a lost one is not sent again")
    _cluster(made)


def status_grammar(made: ArgumentParser) -> None:
    """The words after `vimctl status`."""
    made.add_argument("words", nargs="*", metavar="key=value …", help="settings, such as run.root=…")
    made.add_argument("--preset", default=presets.default(), help="whose root is looked at (default: %(default)s)")
    _cluster(made)


def logs_grammar(made: ArgumentParser) -> None:
    """The words after `vimctl logs`."""
    made.add_argument("job", nargs="?", default="", metavar="JOB", help="as `vimctl status` names it (default: newest)")
    made.add_argument("-f", "--follow", action="store_true", help="go on until the job is over")
    _cluster(made)


def cancel_grammar(made: ArgumentParser) -> None:
    """The words after `vimctl cancel`."""
    made.add_argument("job", metavar="JOB", help="as `vimctl status` names it")
    _cluster(made)


def job_grammar(made: ArgumentParser) -> None:
    """The word after `vimctl job`, which clusters run and people need not know."""
    made.add_argument("spec", metavar="SPEC_URI")


def submit(arguments: Namespace) -> int:
    """`vimctl submit`: send a job or attach to it. Raises `VimError` where the cluster does not answer."""
    from pipelines.jobs import profile, request, submission

    cluster = profile.load(arguments.cluster)
    spec, config = request.asked(arguments, cluster)
    finished = request.finished(spec, config, _say)
    if finished:
        _say(f"finished already, no job is sent (--force makes it again): {finished}")
        return 0
    heard = Heard()
    try:
        state = submission.submit(cluster, spec, heard.say, not arguments.detach)
    except KeyboardInterrupt:
        stop = f"{_hint('cancel', cluster)} {heard.job or 'JOB'}"
        _say(f"\ndetached; a job that was sent goes on. The same command attaches to it again, `{stop}` stops it")
        return DETACHED
    if arguments.detach:
        _say(f"follow it: {_hint('logs -f', cluster)} {state.identity}")
        return 0
    return _ended(cluster, spec, config, state, heard)


def status(arguments: Namespace) -> int:
    """`vimctl status`."""
    from pipelines.jobs import profile, submission
    from pipelines.jobs import status as standing

    cluster = profile.load(arguments.cluster)
    config = presets.load(arguments.preset, commands.only_overrides(arguments.words))
    root = submission.placed(cluster, config).run.root
    try:
        jobs = submission.backend(cluster).jobs()
    except VimError as error:
        # What lies below the root can be told without the cluster.
        _say(f"{error}")
        jobs = []
    for line in standing.lines(root, cluster, jobs):
        _say(line)
    return 0


def logs(arguments: Namespace) -> int:
    """`vimctl logs`. Raises `DataError` where the cluster knows no such job."""
    from pipelines.jobs import profile, submission

    cluster = profile.load(arguments.cluster)
    jobs = submission.backend(cluster)
    state = _chosen(jobs, cluster, arguments.job)
    if arguments.follow and not state.over:
        try:
            state = submission.follow(jobs, state.identity, _say, cluster.retries)
        except KeyboardInterrupt:
            _say("\ndetached; the job goes on")
            return DETACHED
    else:
        for line in submission.so_far(jobs, state.identity):
            _say(line)
    _say(f"{state.identity} {state.status}{f': {state.message}' if state.message else ''}")
    return 0


def cancel(arguments: Namespace) -> int:
    """`vimctl cancel`. Raises `DataError` where the cluster knows no such job."""
    from pipelines.jobs import profile, submission

    cluster = profile.load(arguments.cluster)
    jobs = submission.backend(cluster)
    state = _chosen(jobs, cluster, arguments.job)
    if state.over:
        _say(f"{state.identity} is over already: {state.status}")
        return 0
    jobs.stop(state.identity)
    _say(f"{state.identity} is stopped; finished components are kept, unfinished ones continue when it is sent again")
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
        _say(line)


def _ended(cluster: Cluster, spec: JobSpec, config: PipelineConfig, state: JobState, heard: Heard) -> int:
    from pipelines.jobs import request, submission

    if submission.succeeded(state):
        result = request.outcome(spec, config, _say) or "its result is not there any more"
        _say(f"{state.identity} succeeded: {result}")
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


def _cluster(made: ArgumentParser) -> None:
    made.add_argument(
        "--cluster", default="local", help="a profile's name or a YAML file, see `vimctl cluster list` (default: local)"
    )


def _hint(words: str, cluster: Cluster) -> str:
    return f"vimctl {words}" + ("" if cluster.here else f" --cluster {cluster.name}")


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
