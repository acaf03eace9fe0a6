"""RayJob objects for a profile, as plain dicts; no secret is ever in them."""

from __future__ import annotations

import hashlib
import re
import shlex
from collections.abc import Mapping
from typing import Any

from components.engines import topology
from pipelines.jobs import resources
from pipelines.jobs.api import JobSpec
from pipelines.jobs.profile import Cluster, KubernetesSettings
from pipelines.jobs.resources import JobResources
from vim_core.errors import ConfigError

Manifest = dict[str, Any]

API = "ray.io/v1"
MANAGED = {"app.kubernetes.io/managed-by": "vimctl", "app.kubernetes.io/part-of": "vim"}
JOB_LABEL = "vim/job"
JOB_ID_ANNOTATION = "vim/identity"
"""Annotation with the job's id; the object's name may be a shortened form of it."""
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
TPU = "google.com/tpu"
ROLE_LABEL = "vim/role"
MAX_NAME_LENGTH = 47
"""KubeRay refuses longer names of RayJobs because it appends to them."""
HARDENED = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "runAsNonRoot": True,
    "seccompProfile": {"type": "RuntimeDefault"},
}


def object_name(job_id: str) -> str:
    """A name that Kubernetes takes: the id itself where it is one, else its beginning and a hash of all of it."""
    if len(job_id) <= MAX_NAME_LENGTH and re.fullmatch(r"[a-z]([a-z0-9-]*[a-z0-9])?", job_id):
        return job_id
    digest = hashlib.sha256(job_id.encode()).hexdigest()[:10]
    plain = re.sub(r"[^a-z0-9]+", "-", job_id.lower()).strip("-")
    plain = plain if plain[:1].isalpha() else f"j-{plain}"
    return f"{plain[: MAX_NAME_LENGTH - len(digest) - 1].rstrip('-')}-{digest}"


def ray_job(cluster: Cluster, job_id: str, spec_uri: str, spec: JobSpec) -> Manifest:
    """The RayJob that runs `vimctl job SPEC_URI` on a Ray cluster of its own, queued by Kueue as one gang.

    The operator makes a token for that cluster and stores it in a Secret. `vimctl submit` sends lost jobs again, so
    the operator starts none again.

    Raises:
        ConfigError: the profile has no image, or a component cannot be placed.
    """
    settings = kubernetes_settings(cluster)
    labels = {**MANAGED, JOB_LABEL: object_name(job_id)}
    container = _container("submitter", settings.image, [], {"cpu": "1", "memory": "1Gi"})
    submitter = _pod_template(settings, labels, container, "submitter")
    submitter["spec"]["restartPolicy"] = "Never"
    return {
        "apiVersion": API,
        "kind": "RayJob",
        "metadata": {
            "name": object_name(job_id),
            "namespace": settings.namespace,
            "labels": {**labels, QUEUE_LABEL: settings.queue},
            "annotations": {JOB_ID_ANNOTATION: job_id},
        },
        "spec": {
            "entrypoint": shlex.join([cluster.python, "-m", "pipelines.cli", "job", spec_uri]),
            "submissionMode": "K8sJobMode",
            "shutdownAfterJobFinishes": True,
            "ttlSecondsAfterFinished": settings.ttl_s,
            "backoffLimit": 0,
            "submitterPodTemplate": submitter,
            "rayClusterSpec": _ray_cluster_spec(cluster, resources.job_resources(cluster, spec), labels),
        },
    }


def kubernetes_settings(cluster: Cluster) -> KubernetesSettings:
    """The Kubernetes settings of a profile. Raises `ConfigError` for another kind of cluster, or without an image."""
    if cluster.kind != "kubernetes":
        raise ConfigError(f"kind={cluster.kind!r}: this needs a profile with kind: kubernetes, such as gke-v4")
    if not cluster.kubernetes.image:
        raise ConfigError(
            "kubernetes.image='': name the image with VIM in it, such as REGION-docker.pkg.dev/PROJECT/vim/cpu:1 "
            "(infra/images)"
        )
    return cluster.kubernetes


def ray_version() -> str:
    """The version of Ray in this environment; the images have the same."""
    from importlib.metadata import version

    return version("ray")


def _ray_cluster_spec(cluster: Cluster, needed: JobResources, labels: Mapping[str, str]) -> Manifest:
    """A head on CPUs, and a group of workers for each topology."""
    settings = cluster.kubernetes
    env = [{"name": key, "value": value} for key, value in sorted(cluster.env.items())]
    cpus = {"cpu": str(settings.head_cpus), "memory": settings.head_memory}
    head = _container("ray-head", settings.image, env, cpus)
    head["ports"] = [
        {"name": "gcs", "containerPort": 6379},
        {"name": "dashboard", "containerPort": 8265},
        {"name": "client", "containerPort": 10001},
    ]
    groups = [_slice_group(settings, env, labels, shape, count) for shape, count in needed.slices.items()]
    if needed.cpu_workers:
        worker = _container("ray-worker", settings.image, env, cpus)
        groups.append(_worker_group("cpu", needed.cpu_workers, 1, _pod_template(settings, labels, worker)))
    return {
        "rayVersion": ray_version(),
        "authOptions": {"mode": "token"},
        "headGroupSpec": {
            "rayStartParams": {"dashboard-host": "0.0.0.0"},
            "template": _pod_template(settings, labels, head),
        },
        "workerGroupSpecs": groups,
    }


def _slice_group(
    settings: KubernetesSettings, env: list[Manifest], labels: Mapping[str, str], shape: str, count: int
) -> Manifest:
    """`count` slices of a topology: each host requests all its chips, on GKE's nodes of that topology."""
    if not settings.accelerator:
        raise ConfigError(f"kubernetes.accelerator='': a component wants a {shape} slice; GKE calls v4 tpu-v4-podslice")
    amounts = {"cpu": str(settings.host_cpus), "memory": settings.host_memory, TPU: str(topology.CHIPS_PER_HOST)}
    worker = _container("ray-worker", settings.tpu_image or settings.image, env, amounts)
    template = _pod_template(settings, labels, worker)
    template["spec"]["nodeSelector"] = {
        "cloud.google.com/gke-tpu-accelerator": settings.accelerator,
        "cloud.google.com/gke-tpu-topology": shape,
    }
    template["spec"]["tolerations"] = [{"key": TPU, "operator": "Exists", "effect": "NoSchedule"}]
    return _worker_group(f"tpu-{shape}", count, topology.parse(shape).hosts, template)


def _worker_group(name: str, replicas: int, hosts: int, template: Manifest) -> Manifest:
    return {
        "groupName": name,
        # No autoscaling: Kueue admits a fixed gang, and a slice is useful only as a whole.
        "replicas": replicas,
        "minReplicas": replicas,
        "maxReplicas": replicas,
        "numOfHosts": hosts,
        "rayStartParams": {},
        "template": template,
    }


def _pod_template(
    settings: KubernetesSettings, labels: Mapping[str, str], container: Manifest, role: str = "ray"
) -> Manifest:
    return {
        "metadata": {"labels": {**labels, ROLE_LABEL: role}},
        "spec": {
            "serviceAccountName": settings.service_account,
            # Google's credentials come from the metadata server; these pods do not call the Kubernetes API.
            "automountServiceAccountToken": False,
            # Variables such as MLFLOW_PORT, after services of the namespace, are not meant for the program.
            "enableServiceLinks": False,
            "containers": [container],
        },
    }


def _container(name: str, image: str, env: list[Manifest], amounts: Mapping[str, str]) -> Manifest:
    return {
        "name": name,
        "image": image,
        "env": env,
        "resources": {"requests": dict(amounts), "limits": dict(amounts)},
        "securityContext": HARDENED,
    }
