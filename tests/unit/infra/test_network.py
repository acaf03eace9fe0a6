"""The network policies, read as Kubernetes reads them: who reaches whom, on which port."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.kubernetes_objects import Manifest

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


@pytest.fixture
def policies(rendered: list[Manifest]) -> list[dict[str, Any]]:
    return [each["spec"] for each in rendered if each["kind"] == "NetworkPolicy"]


def selects(selector: dict[str, Any], role: str) -> bool:
    """True if the selector takes pods of this role."""
    rules = selector.get("matchExpressions", [])
    assert all((rule["key"], rule["operator"]) == ("vim/role", "In") for rule in rules)
    return selector.get("matchLabels", {"vim/role": role}) == {"vim/role": role} and all(
        role in rule["values"] for rule in rules
    )


def allowed(policies: list[dict[str, Any]], direction: str, end: str, role: str, other: str, port: int) -> bool:
    """True if some policy for `role` lets traffic of this direction pass to or from `other` of the same namespace."""
    for policy in policies:
        if direction.capitalize() in policy["policyTypes"] and selects(policy["podSelector"], role):
            for rule in policy.get(direction, []):
                ports = [each["port"] for each in rule.get("ports", [])]
                peers = [peer["podSelector"] for peer in rule[end] if "podSelector" in peer]
                if (not ports or port in ports) and any(selects(peer, other) for peer in peers):
                    return True
    return False


def test_every_pod_is_closed_both_ways_at_first(policies: list[dict[str, Any]]) -> None:
    assert {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]} in policies


def test_exactly_the_needed_connections_are_allowed(policies: list[dict[str, Any]]) -> None:
    """A connection is possible where the caller may send and the other may receive."""
    possible = {
        (caller, callee, port)
        for caller in ROLES
        for callee in ROLES
        for port in PORTS
        if allowed(policies, "egress", "to", caller, callee, port)
        and allowed(policies, "ingress", "from", callee, caller, port)
    }
    assert possible == EXPECTED


def test_only_the_gateway_is_reached_from_outside_and_the_database_reaches_nothing(
    policies: list[dict[str, Any]],
) -> None:
    entrances = [p for p in policies for rule in p.get("ingress", []) for peer in rule["from"] if "ipBlock" in peer]
    assert [[role for role in ROLES if selects(each["podSelector"], role)] for each in entrances] == [["gateway"]]
    exits = [p for p in policies for rule in p.get("egress", []) for peer in rule["to"] if "ipBlock" in peer]
    assert not any(selects(each["podSelector"], role) for each in exits for role in ("postgres", "gateway"))
