"""Calls to a Kubernetes API server, with errors that say what to do, and a job's log across broken connections."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from pipelines.jobs.profile import KubernetesSettings
from vim_core.errors import ConfigError, VimError

Result = TypeVar("Result")

CONNECT_S = 10.0
READ_S = 60.0
SILENCE_S = 300.0
"""Seconds without data after which a connection is opened again; it may be dead."""
POLL_S = 2.0
AWAY_S = 300.0
"""Seconds that the API server may be unavailable before `follow` raises."""
TOKEN = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")


class Api:
    """Calls to the API server of a profile; `custom` and `core` are the client's own classes.

    Raises:
        ConfigError: the client is not installed, or there is no such context.
    """

    def __init__(self, settings: KubernetesSettings) -> None:
        try:
            import kubernetes
        except ImportError:
            raise ConfigError(
                "kind: kubernetes needs the Kubernetes client: pip install 'vim-image-modeling[gke]'"
            ) from None
        self.settings = settings
        kubeconfig = os.environ.get("KUBECONFIG")
        if not kubeconfig and not settings.context and TOKEN.exists():
            kubernetes.config.load_incluster_config()
            client = kubernetes.client.ApiClient()
        else:
            try:
                client = kubernetes.config.new_client_from_config(kubeconfig, settings.context or None)
            except (kubernetes.config.ConfigException, OSError) as error:
                raise ConfigError(
                    f"kubernetes.context={settings.context!r}: {_first_line(error)}; `kubectl config get-contexts` "
                    "lists those there are, and `gcloud container clusters get-credentials CLUSTER` adds one"
                ) from error
        # urllib3 would try each call three times more, which would delay a follower of logs.
        client.rest_client.pool_manager.connection_pool_kw["retries"] = False
        self.address = str(client.configuration.host)
        self.custom: Any = kubernetes.client.CustomObjectsApi(client)
        self.core: Any = kubernetes.client.CoreV1Api(client)

    def call(self, request: Callable[[], Result]) -> Result | None:
        """The result of `request()`; None where the server knows no such object.

        Raises:
            VimError: no response, or a refusal; the message names the server and what to do.
        """
        import kubernetes
        import urllib3

        try:
            return request()
        except kubernetes.client.ApiException as error:
            if error.status == 404:
                return None
            refused = f"Kubernetes at {self.address} refuses ({error.status} {error.reason})"
            if error.status in (401, 403):
                raise VimError(
                    f"{refused}: the account of kubernetes.context={self.settings.context!r} may not do this in the "
                    f"namespace {self.settings.namespace}; log in again, or bind it to the role vim-submitter"
                ) from error
            raise VimError(f"{refused}: {_first_line(error.body or '')}") from error
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise VimError(
                f"Kubernetes at {self.address} does not answer ({_first_line(error)}); check kubernetes.context="
                f"{self.settings.context!r} with `kubectl cluster-info`"
            ) from error


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
        for raw in answer:
            stamp, _, line = raw.decode(errors="replace").removesuffix("\n").partition(" ")
            if _time(stamp) > _time(last):
                yield stamp, line
    except (urllib3.exceptions.HTTPError, OSError):
        # The connection broke; the caller opens another one and goes on after the last line.
        return
    finally:
        answer.release_conn()


def _time(stamp: str) -> tuple[str, str]:
    """To compare times: Kubernetes leaves trailing zeros of the fraction out."""
    whole, _, fraction = stamp.rstrip("Z").partition(".")
    return whole, fraction.ljust(9, "0")


def _first_line(text: object) -> str:
    lines = str(text).strip().splitlines()
    return lines[0][:300] if lines else type(text).__name__
