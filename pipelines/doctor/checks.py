"""Checks with their target and results, run all at once, and the HTTP request that several of them make."""

from __future__ import annotations

import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from pipelines.jobs.profile import Cluster
from vim_core.config import PipelineConfig, RunConfig
from vim_core.errors import ConfigError, VimError

OK, WARN, FAIL = "ok", "warn", "FAIL"
TIMEOUT_S = 5.0
MAX_BYTES = 8 * 2**20
"""Bounds of an HTTP request."""


@dataclass(frozen=True)
class Result:
    """One line: status, subject of the check, finding, and remedy."""

    status: str
    check: str
    found: str
    advice: str = ""


@dataclass(frozen=True)
class Target:
    """Subject of the checks: a preset's settings, with the cluster's profile if one is named.

    `try_job` allows a check to start a small job on the cluster.
    """

    config: PipelineConfig
    cluster: Cluster | None = None
    try_job: bool = False

    @property
    def run(self) -> RunConfig:
        """The `run` settings on the cluster."""
        return self.run_settings("")

    def run_settings(self, component: str) -> RunConfig:
        """The `run` settings of one component there. Raises `ConfigError` for a value that `run` does not take."""
        return self.cluster.run_settings(self.config.run, component) if self.cluster else self.config.run


@dataclass(frozen=True)
class Check:
    """A named check. `run` may raise any error, and is abandoned after `timeout` seconds.

    It runs only where `applies` to the target.
    """

    name: str
    run: Callable[[Target], list[Result]]
    timeout: float = 10.0
    applies: Callable[[Target], bool] = lambda target: True


def ok(check: str, found: str) -> Result:
    """Return a result without a problem."""
    return Result(OK, check, found)


def warn(check: str, found: str, advice: str) -> Result:
    """Return a warning: it works, but not as well as it could."""
    return Result(WARN, check, found, advice)


def fail(check: str, found: str, advice: str) -> Result:
    """Return a failure."""
    return Result(FAIL, check, found, advice)


def run_checks(target: Target, checks: Sequence[Check]) -> list[Result]:
    """Results in the order of the checks; takes as long as the slowest check, at most its time limit.

    Each check runs in a thread, so that one that hangs or fails does not affect the others. A late one is abandoned:
    its thread is a daemon and ends with the command.
    """
    running = []
    for check in checks:
        if check.applies(target):
            answer: Future[list[Result]] = Future()
            arguments = (check, target, answer)
            threading.Thread(target=_answer, args=arguments, name=f"doctor-{check.name}", daemon=True).start()
            running.append((check, answer, time.monotonic() + check.timeout))
    results = []
    for check, answer, deadline in running:
        try:
            results += answer.result(max(0.0, deadline - time.monotonic()))
        except TimeoutError:
            limit = f"no answer within {check.timeout:.0f} s"
            results.append(fail(check.name, limit, "check the network to it, and try again"))
    return results


def _answer(check: Check, target: Target, answer: Future[list[Result]]) -> None:
    try:
        answer.set_result(check.run(target))
    except VimError as error:
        answer.set_result([fail(check.name, str(error), "")])
    except Exception as error:
        # Any error of this check must not hide the other results.
        what = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        answer.set_result([fail(check.name, f"could not be checked: {what}", "")])


class NoAnswer(Exception):
    """The server did not answer; the text is the reason."""


@dataclass(frozen=True)
class Response:
    """Status and text."""

    status: int
    text: str

    def json(self) -> Any:
        """The text as JSON, None where it is none."""
        try:
            return json.loads(self.text)
        except ValueError:
            return None


def request(
    base: str, path: str, headers: dict[str, str] | None = None, body: Any = None, method: str = ""
) -> Response:
    """The response of a server, whatever its status.

    Raises:
        NoAnswer: nothing listens there, the name is unknown, or it takes longer than `TIMEOUT_S` seconds.
        ConfigError: `base` is not an http or https address.
    """
    if urlsplit(base).scheme not in ("http", "https") or not urlsplit(base).hostname:
        raise ConfigError(f"{base!r} is not an address like http://host:port")
    data = None if body is None else json.dumps(body).encode()
    all_headers = {"Content-Type": "application/json", **(headers or {})}
    method = method or ("POST" if data else "GET")
    sent = urllib.request.Request(base.rstrip("/") + path, data, all_headers, method=method)
    try:
        with urllib.request.urlopen(sent, timeout=TIMEOUT_S) as response:
            return Response(response.status, response.read(MAX_BYTES).decode(errors="replace"))
    except urllib.error.HTTPError as error:
        return Response(error.code, error.read(MAX_BYTES).decode(errors="replace"))
    except urllib.error.URLError as error:
        raise NoAnswer(str(getattr(error.reason, "strerror", None) or error.reason)) from error
    except (OSError, ValueError) as error:
        raise NoAnswer(str(error) or type(error).__name__) from error
