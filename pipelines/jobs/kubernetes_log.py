"""A job's output: the log of its submitter's pod from the beginning, across broken connections."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

from pipelines.jobs.kubernetes_api import CONNECT_S, Api
from vim_core.errors import VimError

SILENCE_S = 300.0
"""Seconds without data after which a connection is opened again; it may be dead."""
POLL_S = 2.0
AWAY_S = 300.0
"""Seconds that the API server may be unavailable before `follow` raises."""


def follow(api: Api, pods: Callable[[], list[Any]], finished: Callable[[], bool]) -> Iterator[str]:
    """Lines of the newest of `pods()` as they come, until the job is finished and that pod's log is read to its end.

    When the submitter's pod is replaced, the successor shows the job's output from its beginning again; a line says so.
    """
    name, last = "", ""
    answered = time.monotonic()
    while True:
        try:
            # Before reading: then all lines written until the job finished are read.
            done = finished()
            started = [pod for pod in pods() if pod.status.phase in ("Running", "Succeeded", "Failed")]
        except VimError:
            # An API server is upgraded in minutes; a job takes days.
            if time.monotonic() - answered > AWAY_S:
                raise
            time.sleep(POLL_S)
            continue
        answered = time.monotonic()
        if started:
            newest = max(started, key=lambda pod: pod.metadata.creation_timestamp).metadata.name
            if name and newest != name:
                yield f"-- the submitter's pod was replaced by {newest}; the output from its beginning --"
            name, last = newest, last if newest == name else ""
            for stamp, line in _lines(api, name, last, streaming=not done):
                last = stamp
                yield line
        if done:
            return
        time.sleep(POLL_S)


def _lines(api: Api, name: str, last: str, streaming: bool) -> Iterator[tuple[str, str]]:
    """Time and text of lines later than `last`, until the pod or the connection ends."""
    import kubernetes
    import urllib3

    try:
        answer = api.core.read_namespaced_pod_log(
            name, api.settings.namespace, follow=streaming, timestamps=True, _preload_content=False,
            _request_timeout=(CONNECT_S, SILENCE_S),
        )  # fmt: skip
    except kubernetes.client.ApiException as error:
        if error.status in (400, 404):
            # Its container does not exist yet, or no longer.
            return
        raise
    try:
        for raw in _split(answer.stream(decode_content=True)):
            stamp, _, line = raw.partition(" ")
            if _time(stamp) > _time(last):
                yield stamp, line
    except (urllib3.exceptions.HTTPError, OSError):
        # The connection broke; the caller opens another one and goes on after the last line.
        return
    finally:
        answer.release_conn()


def _split(chunks: Iterator[bytes]) -> Iterator[str]:
    rest = b""
    for chunk in chunks:
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            yield line.decode(errors="replace")
    if rest:
        yield rest.decode(errors="replace")


def _time(stamp: str) -> tuple[str, str]:
    """To compare times: Kubernetes leaves trailing zeros of the fraction out."""
    whole, _, fraction = stamp.rstrip("Z").partition(".")
    return whole, fraction.ljust(9, "0")
