"""Calls to a Kubernetes API server, by the user's kubeconfig or the pod's account, with errors that say what to do."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from pipelines.jobs.profile import KubernetesSettings
from vim_core.errors import ConfigError, VimError

Result = TypeVar("Result")

CONNECT_S = 10.0
READ_S = 60.0
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
        client = _client(kubernetes, settings)
        # urllib3 would try each call three times more, which would delay a follower of logs.
        client.rest_client.pool_manager.connection_pool_kw["retries"] = False
        self.address = str(client.configuration.host)
        self.custom: Any = kubernetes.client.CustomObjectsApi(client)
        self.core: Any = kubernetes.client.CoreV1Api(client)

    def call(self, request: Callable[[], Result], absent: Result | None = None) -> Result | None:
        """The result of `request()`; `absent` where the server knows no such object.

        Raises:
            VimError: no response, or a refusal; the message names the server and what to do.
        """
        import kubernetes
        import urllib3

        try:
            return request()
        except kubernetes.client.ApiException as error:
            if error.status == 404:
                return absent
            raise VimError(self.refusal(error)) from error
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise VimError(
                f"Kubernetes at {self.address} does not answer ({_first_line(error)}); check kubernetes.context="
                f"{self.settings.context!r} with `kubectl cluster-info`"
            ) from error

    def refusal(self, error: Any) -> str:
        """The message for a refusal of the server."""
        refused = f"Kubernetes at {self.address} refuses ({error.status} {error.reason})"
        if error.status in (401, 403):
            return (
                f"{refused}: the account of kubernetes.context={self.settings.context!r} may not do this in the "
                f"namespace {self.settings.namespace}; log in again, or bind it to the role vim-submitter"
            )
        return f"{refused}: {_first_line(error.body or '')}"


def _client(kubernetes: Any, settings: KubernetesSettings) -> Any:
    kubeconfig = os.environ.get("KUBECONFIG")
    if not kubeconfig and not settings.context and TOKEN.exists():
        kubernetes.config.load_incluster_config()
        return kubernetes.client.ApiClient()
    try:
        return kubernetes.config.new_client_from_config(config_file=kubeconfig, context=settings.context or None)
    except (kubernetes.config.ConfigException, OSError) as error:
        raise ConfigError(
            f"kubernetes.context={settings.context!r}: {_first_line(error)}; `kubectl config get-contexts` lists "
            "those there are, and `gcloud container clusters get-credentials CLUSTER` adds one"
        ) from error


def _first_line(text: object) -> str:
    lines = str(text).strip().splitlines()
    return lines[0][:300] if lines else type(text).__name__
