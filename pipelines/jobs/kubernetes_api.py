"""The way to a Kubernetes API server: the user's kubeconfig, or the pod's own account; errors in words."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from pipelines.jobs.profile import KubernetesPlace
from vim_core.errors import ConfigError, VimError

Result = TypeVar("Result")

CONNECT_S = 10.0
ANSWER_S = 60.0
TOKEN = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")


class Api:
    """Calls to the API server of a profile; `custom` and `core` are the client's own classes.

    Raises:
        ConfigError: the client is not installed, or there is no such context.
    """

    def __init__(self, place: KubernetesPlace) -> None:
        try:
            import kubernetes
        except ImportError:
            raise ConfigError(
                "kind: kubernetes needs the Kubernetes client: pip install 'vim-image-modeling[gke]'"
            ) from None
        self.place = place
        made = _client(kubernetes, place)
        # urllib3 would try each call three times more, and a follower of logs waits long enough as it is.
        made.rest_client.pool_manager.connection_pool_kw["retries"] = False
        self.address = str(made.configuration.host)
        self.custom: Any = kubernetes.client.CustomObjectsApi(made)
        self.core: Any = kubernetes.client.CoreV1Api(made)

    def call(self, act: Callable[[], Result], absent: Result | None = None) -> Result | None:
        """Do `act()`; `absent` where the server knows no such object.

        Raises:
            VimError: no answer, or a refusal; the message says by whom and what to do.
        """
        import kubernetes
        import urllib3

        try:
            return act()
        except kubernetes.client.ApiException as error:
            if error.status == 404:
                return absent
            raise VimError(self.refusal(error)) from error
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise VimError(
                f"Kubernetes at {self.address} does not answer ({_first(error)}); check kubernetes.context="
                f"{self.place.context!r} with `kubectl cluster-info`"
            ) from error

    def refusal(self, error: Any) -> str:
        """What the server's refusal means for the user."""
        about = f"Kubernetes at {self.address} refuses ({error.status} {error.reason})"
        if error.status in (401, 403):
            return (
                f"{about}: the account of kubernetes.context={self.place.context!r} may not do this in the namespace "
                f"{self.place.namespace}; log in again, or bind it to the role vim-submitter (infra/kubernetes)"
            )
        return f"{about}: {_first(error.body or '')}"


def _client(kubernetes: Any, place: KubernetesPlace) -> Any:
    given = os.environ.get("KUBECONFIG")
    if not given and not place.context and TOKEN.exists():
        kubernetes.config.load_incluster_config()
        return kubernetes.client.ApiClient()
    try:
        return kubernetes.config.new_client_from_config(config_file=given, context=place.context or None)
    except (kubernetes.config.ConfigException, OSError) as error:
        raise ConfigError(
            f"kubernetes.context={place.context!r}: {_first(error)}; `kubectl config get-contexts` lists those there "
            "are, and `gcloud container clusters get-credentials CLUSTER` adds one"
        ) from error


def _first(what: object) -> str:
    lines = str(what).strip().splitlines()
    return lines[0][:300] if lines else type(what).__name__
