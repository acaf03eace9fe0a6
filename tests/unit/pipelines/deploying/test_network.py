"""The network policies, read as Kubernetes reads them: who reaches whom, on which port."""

from __future__ import annotations

from typing import Any

import pytest

from pipelines.deploying import network
from pipelines.deploying.deployment import Deployment
from pipelines.jobs.profile import Cluster, KubernetesPlace

ROLES = ("postgres", "mlflow", "dagster-web", "dagster-daemon", "dagster-code", "gateway", "ray", "submitter", "backup")
PORTS = (5432, 5000, 3000, 4000, 8265, 6379, 22)
EXPECTED = {
    *((role, "postgres", 5432) for role in ("mlflow", "dagster-web", "dagster-daemon", "dagster-code", "backup")),
    *((role, "mlflow", 5000) for role in ("gateway", "ray", "dagster-code", "dagster-daemon")),
    ("gateway", "dagster-web", 3000),
    *((role, "dagster-code", 4000) for role in ("dagster-web", "dagster-daemon")),
    *((role, "ray", 8265) for role in ("gateway", "submitter")),
    *(("ray", "ray", port) for port in PORTS),
}
PLACE = KubernetesPlace(image="vim:1", project="my-project", bucket="my-bucket", domain="vim.example.org")


@pytest.fixture(scope="module")
def policies() -> list[dict[str, Any]]:
    return [each["spec"] for each in network.policies(Deployment(Cluster("k", "kubernetes", kubernetes=PLACE), "p"))]


def chosen(selector: dict[str, Any], role: str) -> bool:
    """Whether pods of this role are meant."""
    rules = selector.get("matchExpressions", [])
    assert all((rule["key"], rule["operator"]) == ("vim/role", "In") for rule in rules)
    return not selector.get("matchLabels") and all(role in rule["values"] for rule in rules)


def open_to(policies: list[dict[str, Any]], way: str, end: str, role: str, other: str, port: int) -> bool:
    """Whether some policy for `role` lets traffic of this way pass to or from `other` of the same namespace."""
    for policy in policies:
        if way.capitalize() in policy["policyTypes"] and chosen(policy["podSelector"], role):
            for rule in policy.get(way, []):
                ports = [each["port"] for each in rule.get("ports", [])]
                peers = [peer["podSelector"] for peer in rule[end] if "podSelector" in peer]
                if (not ports or port in ports) and any(chosen(peer, other) for peer in peers):
                    return True
    return False


def test_every_pod_is_closed_both_ways_at_first(policies: list[dict[str, Any]]) -> None:
    assert {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]} in policies


def test_exactly_the_ways_that_are_needed_are_open(policies: list[dict[str, Any]]) -> None:
    """A way is open where the caller may send and the other may receive."""
    found = {
        (caller, callee, port)
        for caller in ROLES
        for callee in ROLES
        for port in PORTS
        if open_to(policies, "egress", "to", caller, callee, port)
        and open_to(policies, "ingress", "from", callee, caller, port)
    }
    assert found == EXPECTED


def test_only_the_gateway_is_reached_from_outside_and_the_database_reaches_nothing(
    policies: list[dict[str, Any]],
) -> None:
    outside = [p for p in policies for rule in p.get("ingress", []) for peer in rule["from"] if "ipBlock" in peer]
    assert [each["podSelector"]["matchExpressions"][0]["values"] for each in outside] == [["gateway"]]
    sending = [p for p in policies for rule in p.get("egress", []) for peer in rule["to"] if "ipBlock" in peer]
    assert not any(chosen(each["podSelector"], role) for each in sending for role in ("postgres", "gateway"))
