"""infra/kubernetes: objects fit their schemas and each other, hold no secret, agree with the shipped profile.

Network policies are read as Kubernetes reads them: who reaches whom, on which port.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines import presets
from pipelines.jobs import manifests, profile
from pipelines.jobs.api import JobSpec
from tests.support.common import REPOSITORY
from tests.support.kubernetes_objects import (
    EXAMPLE,
    Manifest,
    environment,
    expand,
    pod_specs,
    render,
    validate,
)  # fmt: skip

SECRETS = {"vim-postgres", "vim-tls", "vim-htpasswd"}
UNITS = {"": 1, "Gi": 2**30, "m": 0.001}
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


@pytest.fixture(scope="module")
def rendered() -> list[Manifest]:
    """The objects of infra/kubernetes/overlays/example."""
    return render(EXAMPLE)


def get(objects: list[Manifest], kind: str, name: str) -> Manifest:
    """The object of this kind and name, without the hash that Kustomize appends to ConfigMaps."""
    (found,) = [
        each for each in objects
        if each["kind"] == kind and re.sub("-[0-9a-z]{10}$", "", each["metadata"]["name"]) == name
    ]  # fmt: skip
    return found


def container(objects: list[Manifest], name: str) -> tuple[Manifest, dict[str, str]]:
    """The container of a deployment, and its variables."""
    (found,) = get(objects, "Deployment", name)["spec"]["template"]["spec"]["containers"]
    return found, environment(found, get(objects, "ConfigMap", "settings")["data"])


def references(tree: Any, key: str, field: str) -> Iterator[str]:
    """The values of `field` in all mappings below a `key`."""
    if isinstance(tree, dict):
        for name, entry in tree.items():
            if name == key and isinstance(entry, dict) and field in entry:
                yield entry[field]
            yield from references(entry, key, field)
    elif isinstance(tree, list):
        for entry in tree:
            yield from references(entry, key, field)


def test_every_object_fits_its_schema(rendered: list[Manifest], test_data: Path) -> None:
    for each in rendered:
        validate(each, test_data / "crds")


def test_a_copy_of_the_overlay_moves_to_another_namespace(tmp_path: Path, test_data: Path) -> None:
    """The steps of infra/README.md: copy, change values, switch the component on."""
    for folder in ("kubernetes", "postgres"):
        shutil.copytree(REPOSITORY / "infra" / folder, tmp_path / folder)
    copy = tmp_path / "kubernetes" / "overlays" / "mine"
    shutil.copytree(EXAMPLE, copy)
    text = (copy / "kustomization.yaml").read_text()
    for old, new in [("namespace: vim ", "namespace: team "), ("# components:", "components:"), ("# - ../", "- ../")]:
        assert old in text
        text = text.replace(old, new)
    (copy / "kustomization.yaml").write_text(text)
    objects = render(copy)
    assert get(objects, "Namespace", "team")
    assert {each["metadata"].get("namespace", "team") for each in objects} == {"team"}
    assert [subject["namespace"] for subject in get(objects, "RoleBinding", "vim-submitter")["subjects"]] == ["team"]
    cluster = get(objects, "RayCluster", "vim")
    validate(cluster, test_data / "crds")
    images = [each["image"] for spec in pod_specs(cluster) for each in spec["containers"]]
    assert images == [f"us-central2-docker.pkg.dev/my-project/vim/{kind}:1" for kind in ("cpu", "tpu")]
    assert cluster["spec"]["rayVersion"] == version("ray")


def test_what_objects_refer_to_is_there(rendered: list[Manifest]) -> None:
    names = {(each["kind"], each["metadata"]["name"]) for each in rendered}
    assert len(names) == len(rendered)
    volumes = [volume for each in rendered for spec in pod_specs(each) for volume in spec.get("volumes", [])]
    maps = {*references(rendered, "configMapRef", "name"), *references(volumes, "configMap", "name")}
    assert {("ConfigMap", name) for name in maps} <= names
    assert maps == {each["metadata"]["name"] for each in rendered if each["kind"] == "ConfigMap"}
    for each in rendered:
        for spec in pod_specs(each):
            assert spec["serviceAccountName"] == "default" or ("ServiceAccount", spec["serviceAccountName"]) in names
            mounted = {mount["name"] for one in spec["containers"] for mount in one.get("volumeMounts", [])}
            claims = {claim["metadata"]["name"] for claim in each["spec"].get("volumeClaimTemplates", [])}
            assert mounted == claims | {volume["name"] for volume in spec.get("volumes", [])}


def test_services_lead_to_ports_of_their_pods(rendered: list[Manifest]) -> None:
    ports = {
        each["spec"]["template"]["metadata"]["labels"]["vim/role"]: {
            port["containerPort"] for one in each["spec"]["template"]["spec"]["containers"] for port in one["ports"]
        }
        for each in rendered
        if each["kind"] in ("Deployment", "StatefulSet") and each["metadata"]["name"] != "dagster-daemon"
    }
    services = [each["spec"] for each in rendered if each["kind"] == "Service"]
    assert {spec["selector"]["vim/role"] for spec in services} == set(ports)
    for spec in services:
        assert {port["targetPort"] for port in spec["ports"]} <= ports[spec["selector"]["vim/role"]]


def test_secrets_are_referred_to_and_never_written(rendered: list[Manifest]) -> None:
    assert [each for each in rendered if each["kind"] == "Secret"] == []
    assert {*references(rendered, "secretKeyRef", "name"), *references(rendered, "secret", "name")} == SECRETS
    for each in rendered:
        for spec in pod_specs(each):
            for entry in spec["containers"][0].get("env", []):
                assert "PASSWORD" not in entry["name"] or "secretKeyRef" in entry["valueFrom"]


def test_pods_have_no_privileges_and_images_are_pinned(rendered: list[Manifest]) -> None:
    pods = [spec for each in rendered for spec in pod_specs(each)]
    assert len(pods) == 8
    for pod in pods:
        assert pod["securityContext"]["runAsUser"] > 0
        for one in pod["containers"]:
            assert one["securityContext"] == manifests.HARDENED
            assert re.search(r":\d[\w.-]*$", one["image"]), one["image"]


def test_the_overlay_agrees_with_the_shipped_profile(rendered: list[Manifest]) -> None:
    """Both state the same names, MLflow address, and quotas for all that one job of the profile holds."""
    cluster = profile.load("gke-v4")
    place = cluster.kubernetes
    for kind, name in [("Namespace", place.namespace), ("LocalQueue", place.queue)]:
        get(rendered, kind, name)
    assert get(rendered, "ServiceAccount", place.service_account)["metadata"]["namespace"] == place.namespace
    _, variables = container(rendered, "dagster-code")
    assert f"run.tracking_uri={cluster.tracking_uri}" in variables["VIM_OVERRIDES"].split()
    _, mlflow = container(rendered, "mlflow")
    assert cluster.tracking_uri.removeprefix("http://") in mlflow["MLFLOW_SERVER_ALLOWED_HOSTS"].split(",")

    flavors = {each["metadata"]["name"]: each["spec"] for each in rendered if each["kind"] == "ResourceFlavor"}
    (group,) = get(rendered, "ClusterQueue", place.queue)["spec"]["resourceGroups"]
    place.image = "vim:1"
    spec = JobSpec("run", "p", yaml.safe_dump({"components": list(presets.load("imagenet256_base", []).components)}))
    workers = manifests.ray_job(cluster, "j", "gs://b/j", spec)["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    assert {group["groupName"] for group in workers} == {"tpu-2x2x1", "tpu-2x2x4", "tpu-4x4x4"}
    for worker in workers:
        template = worker["template"]["spec"]
        (flavor,) = [name for name, spec in flavors.items() if spec.get("nodeLabels") == template["nodeSelector"]]
        (quota,) = [each["resources"] for each in group["flavors"] if each["name"] == flavor]
        assert [each["name"] for each in quota] == group["coveredResources"]
        requests = template["containers"][0]["resources"]["requests"]
        for entry in quota:
            needed = amount(requests[entry["name"]]) * worker["replicas"] * worker["numOfHosts"]
            assert amount(entry["nominalQuota"]) >= needed, (flavor, entry)


def amount(quantity: str) -> float:
    match = re.fullmatch(r"(\d+)(\w*)", quantity)
    assert match is not None
    return int(match[1]) * UNITS[match[2]]


def test_mlflow_knows_its_address_and_keeps_files_in_the_bucket(rendered: list[Manifest]) -> None:
    server, variables = container(rendered, "mlflow")
    assert "mlflow.vim.example.org" in variables["MLFLOW_SERVER_ALLOWED_HOSTS"].split(",")
    words = [expand(word, variables) for word in server["command"]]
    assert "--artifacts-destination=gs://my-bucket/mlflow" in words
    assert not any("$(" in word for word in [*words, *variables.values()])


def test_dagster_reads_its_configuration(
    rendered: list[Manifest], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dagster._core.instance.config import dagster_instance_config

    data = get(rendered, "ConfigMap", "dagster")["data"]
    (tmp_path / "dagster.yaml").write_text(data["dagster.yaml"])
    config, _ = dagster_instance_config(str(tmp_path))
    assert config["storage"]["postgres"]["postgres_db"]["password"] == {"env": "VIM_POSTGRES_PASSWORD"}
    (server,) = yaml.safe_load(data["workspace.yaml"])["load_from"]
    service = get(rendered, "Service", server["grpc_server"]["host"])
    assert service["spec"]["ports"][0]["port"] == server["grpc_server"]["port"]


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
