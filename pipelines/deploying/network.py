"""Network policies: nothing may talk to anything, except what is listed here."""

from __future__ import annotations

from typing import Any

from pipelines.deploying.deployment import CODE_PORT, DAGSTER_PORT, MLFLOW_PORT, POSTGRES_PORT, Deployment
from pipelines.deploying.gateway import HTTP_PORT, HTTPS_PORT
from pipelines.deploying.objects import about
from pipelines.jobs.manifests import DASHBOARD_PORT, ROLE, Manifest

METADATA = "169.254.169.254/32"
"""Where a pod gets its Google credentials; older dataplanes of GKE redirect it to the next."""
METADATA_GKE = "169.254.169.252/32"
OPERATOR = {"app.kubernetes.io/name": "kuberay-operator"}
WAYS = {
    "postgres": (POSTGRES_PORT, ["mlflow", "dagster-web", "dagster-daemon", "dagster-code", "backup"]),
    "mlflow": (MLFLOW_PORT, ["gateway", "ray", "dagster-code", "dagster-daemon"]),
    "dagster-web": (DAGSTER_PORT, ["gateway"]),
    "dagster-code": (CODE_PORT, ["dagster-web", "dagster-daemon"]),
}
"""By role: its port, and the roles that may call it."""
ONLINE = ("ray", "submitter", "mlflow", "dagster-code", "dagster-daemon", "dagster-web", "backup")
"""Roles that use Google's storage, and for some the Kubernetes API."""


def policies(made: Deployment) -> list[Manifest]:
    """Deny everything, then allow names, the ways between our own, storage, Ray's own traffic, and users in."""
    found = [
        _policy(made, "default-deny", {}, policyTypes=["Ingress", "Egress"]),
        _policy(made, "names", {}, egress=[{"to": [{"namespaceSelector": {}}], "ports": _ports(53, "UDP", "TCP")}]),
        _policy(made, "storage", _roles(ONLINE), egress=_storage()),
    ]
    for role, (port, callers) in WAYS.items():
        found.append(_policy(made, f"to-{role}", _roles([role]), ingress=[_from(_roles(callers), port)]))
        found.append(_policy(made, f"ask-{role}", _roles(callers), egress=[_to(_roles([role]), port)]))
    return [*found, *_ray(made), *_gateway(made)]


def _ray(made: Deployment) -> list[Manifest]:
    """Nodes of a Ray cluster use many ports among themselves; the dashboard's is for submitter, gateway, operator."""
    nodes = _roles(["ray"])
    callers = [
        {"podSelector": _roles(["submitter", "gateway"])},
        {"namespaceSelector": {}, "podSelector": {"matchLabels": OPERATOR}},
    ]
    inside = {"podSelector": nodes}
    return [
        _policy(
            made,
            "ray",
            nodes,
            ingress=[{"from": [inside]}, {"from": callers, "ports": _ports(DASHBOARD_PORT)}],
            egress=[{"to": [inside]}],
        ),
        _policy(made, "ask-ray", _roles(["submitter", "gateway"]), egress=[_to(nodes, DASHBOARD_PORT)]),
    ]


def _gateway(made: Deployment) -> list[Manifest]:
    everyone = [{"ipBlock": {"cidr": "0.0.0.0/0"}}]
    ports = _ports(HTTP_PORT) + _ports(HTTPS_PORT)
    return [_policy(made, "to-gateway", _roles(["gateway"]), ingress=[{"from": everyone, "ports": ports}])]


def _storage() -> list[Manifest]:
    return [
        {"to": [{"ipBlock": {"cidr": "0.0.0.0/0"}}], "ports": _ports(443)},
        {"to": [{"ipBlock": {"cidr": METADATA}}], "ports": _ports(80)},
        {"to": [{"ipBlock": {"cidr": METADATA_GKE}}], "ports": _ports(988)},
    ]


def _policy(made: Deployment, name: str, selector: Manifest, **rules: Any) -> Manifest:
    kinds = [kind for kind, key in (("Ingress", "ingress"), ("Egress", "egress")) if key in rules]
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": about(made.namespace, name),
        "spec": {"podSelector": selector, "policyTypes": kinds, **rules},
    }


def _roles(names: Any) -> Manifest:
    return {"matchExpressions": [{"key": ROLE, "operator": "In", "values": sorted(names)}]}


def _from(selector: Manifest, port: int) -> Manifest:
    return {"from": [{"podSelector": selector}], "ports": _ports(port)}


def _to(selector: Manifest, port: int) -> Manifest:
    return {"to": [{"podSelector": selector}], "ports": _ports(port)}


def _ports(port: int, *protocols: str) -> list[Manifest]:
    return [{"port": port, "protocol": protocol} for protocol in protocols or ("TCP",)]
