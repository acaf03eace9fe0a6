"""Small parts that every manifest is made of: names, labels, containers, services."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.jobs.manifests import HARDENED, MANAGED, ROLE, Manifest

SERVERS = "vim-servers"
"""The service account of MLflow, Dagster and the backups."""
USER = 10001
"""The user of VIM's images (infra/images)."""
POSTGRES_SECRET = "vim-postgres"
TLS_SECRET = "vim-tls"
HTPASSWD_SECRET = "vim-htpasswd"


def about(namespace: str, name: str, role: str = "") -> Manifest:
    """The metadata of an object; namespace '' for one that belongs to the whole cluster."""
    labels = {**MANAGED, **({ROLE: role} if role else {})}
    return {"name": name, **({"namespace": namespace} if namespace else {}), "labels": labels}


def config_map(namespace: str, name: str, data: Mapping[str, str]) -> Manifest:
    """Files by name."""
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": about(namespace, name), "data": dict(data)}


def service(namespace: str, name: str, ports: Mapping[str, tuple[int, int]], **spec: Any) -> Manifest:
    """A service before the pods of the role `name`; `ports` are by name: its own, and that of the pods."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": about(namespace, name),
        "spec": {
            "selector": {ROLE: name},
            "ports": [
                {"name": each, "port": port, "targetPort": target} for each, (port, target) in sorted(ports.items())
            ],
            **spec,
        },
    }


def deployment(namespace: str, role: str, pod: Manifest, digest: str = "") -> Manifest:
    """One pod of this role, replaced as a whole; `digest` of its configuration starts it anew when that changes."""
    template: Manifest = {"metadata": {"labels": {**MANAGED, ROLE: role}}, "spec": pod}
    if digest:
        template["metadata"]["annotations"] = {"vim/configuration": digest}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": about(namespace, role, role),
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": {ROLE: role}},
            "strategy": {"type": "Recreate"},
            "template": template,
        },
    }


def container(
    name: str, image: str, command: Sequence[str], env: Sequence[Manifest], cpus: str, memory: str, **more: Any
) -> Manifest:
    """A container without privileges; `memory` is also its limit."""
    return {
        "name": name,
        "image": image,
        "command": list(command),
        "env": list(env),
        "resources": {"requests": {"cpu": cpus, "memory": memory}, "limits": {"memory": memory}},
        "securityContext": HARDENED,
        **more,
    }


def pod(containers: Sequence[Manifest], account: str = SERVERS, user: int = USER, **more: Any) -> Manifest:
    """What runs in a pod. Nothing of ours but Dagster's daemon talks to the Kubernetes API."""
    return {
        "serviceAccountName": account,
        "automountServiceAccountToken": False,
        # Kubernetes would set MLFLOW_PORT=tcp://… because of the service of that name, which MLflow reads as its own.
        "enableServiceLinks": False,
        "securityContext": {"runAsUser": user, "runAsGroup": user, "fsGroup": user},
        "containers": list(containers),
        **more,
    }


def value(name: str, text: str) -> Manifest:
    """A variable with this value."""
    return {"name": name, "value": text}


def secret(name: str, of: str, key: str) -> Manifest:
    """A variable out of a Secret, which nobody writes to a file."""
    return {"name": name, "valueFrom": {"secretKeyRef": {"name": of, "key": key}}}


def probe(path: str, port: int) -> Manifest:
    """Readiness by HTTP."""
    return {"httpGet": {"path": path, "port": port}, "periodSeconds": 10, "failureThreshold": 6}
