"""Namespace, service accounts bound to Google's by workload identity, and who may submit."""

from __future__ import annotations

from pipelines.deploying.deployment import Deployment
from pipelines.deploying.objects import SERVERS, about
from pipelines.jobs.manifests import Manifest

SUBMITTER = "vim-submitter"
RULES = [
    {"apiGroups": ["ray.io"], "resources": ["rayjobs"], "verbs": ["create", "get", "list", "delete"]},
    {"apiGroups": [""], "resources": ["pods", "pods/log"], "verbs": ["get", "list"]},
    {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["create", "get", "list", "delete"]},
]
"""What `vimctl submit`, `status`, `logs` and `cancel` ask for, and nothing else."""


def namespace(made: Deployment) -> list[Manifest]:
    """The namespace; its pods may have no privileges."""
    data = about("", made.namespace)
    data["labels"] |= {
        "pod-security.kubernetes.io/enforce": "baseline",
        "pod-security.kubernetes.io/warn": "restricted",
    }
    return [{"apiVersion": "v1", "kind": "Namespace", "metadata": data}]


def accounts(made: Deployment) -> list[Manifest]:
    """The accounts of jobs and of servers. Without a Google account the bucket's policy names them themselves."""
    found = []
    google = made.place.google_service_account
    full = google if "@" in google else f"{google}@{made.place.project}.iam.gserviceaccount.com"
    for name in (made.place.service_account, SERVERS):
        data = about(made.namespace, name)
        if google:
            data["annotations"] = {"iam.gke.io/gcp-service-account": full}
        found.append({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": data})
    return found


def submitters(made: Deployment) -> list[Manifest]:
    """The role of people and schedules that submit, bound to Dagster's account; bind people with kubectl."""
    group = "rbac.authorization.k8s.io"
    role = {"apiVersion": f"{group}/v1", "kind": "Role", "metadata": about(made.namespace, SUBMITTER), "rules": RULES}
    binding = {
        "apiVersion": f"{group}/v1",
        "kind": "RoleBinding",
        "metadata": about(made.namespace, SUBMITTER),
        "roleRef": {"apiGroup": group, "kind": "Role", "name": SUBMITTER},
        "subjects": [{"kind": "ServiceAccount", "name": SERVERS, "namespace": made.namespace}],
    }
    return [role, binding]
