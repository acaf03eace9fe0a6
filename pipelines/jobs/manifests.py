"""RayJob objects for a profile, as plain dicts; no secret is ever in them."""

from __future__ import annotations

import hashlib
import re
import shlex
from collections.abc import Mapping
from typing import Any

from components.engines import topology
from pipelines.jobs import shapes
from pipelines.jobs.api import JobSpec
from pipelines.jobs.profile import Cluster, KubernetesPlace
from pipelines.jobs.shapes import Shapes
from vim_core.errors import ConfigError

Manifest = dict[str, Any]

API = "ray.io/v1"
MANAGED = {"app.kubernetes.io/managed-by": "vimctl", "app.kubernetes.io/part-of": "vim"}
JOB_LABEL = "vim/job"
IDENTITY = "vim/identity"
"""Annotation with the submission id as the user knows it; the object's name may be a shortened form of it."""
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
TPU = "google.com/tpu"
ROLE = "vim/role"
DASHBOARD_PORT = 8265
LONGEST = 47
"""KubeRay refuses longer names of RayJobs, because it appends to them."""
HARDENED = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "runAsNonRoot": True,
    "seccompProfile": {"type": "RuntimeDefault"},
}


def object_name(identity: str) -> str:
    """A name that Kubernetes takes: the identity itself where it is one, else its beginning and a hash of all of it."""
    if len(identity) <= LONGEST and re.fullmatch(r"[a-z]([a-z0-9-]*[a-z0-9])?", identity):
        return identity
    digest = hashlib.sha256(identity.encode()).hexdigest()[:10]
    plain = re.sub(r"[^a-z0-9]+", "-", identity.lower()).strip("-")
    plain = plain if plain[:1].isalpha() else f"j-{plain}"
    return f"{plain[: LONGEST - len(digest) - 1].rstrip('-')}-{digest}"


def ray_job(cluster: Cluster, identity: str, spec_uri: str, spec: JobSpec) -> Manifest:
    """The RayJob that runs `vimctl job SPEC_URI` on a Ray cluster of its own, queued by Kueue as one gang.

    The operator makes a token for that cluster and keeps it in a Secret; our own submitter starts lost jobs again, so
    the operator does not.

    Raises:
        ConfigError: the profile has no image, or a component cannot be placed.
    """
    place = checked(cluster)
    labels = {**MANAGED, JOB_LABEL: object_name(identity)}
    return {
        "apiVersion": API,
        "kind": "RayJob",
        "metadata": {
            "name": object_name(identity),
            "namespace": place.namespace,
            "labels": {**labels, QUEUE_LABEL: place.queue},
            "annotations": {IDENTITY: identity},
        },
        "spec": {
            "entrypoint": shlex.join([cluster.python, "-m", "pipelines.cli", "job", spec_uri]),
            "submissionMode": "K8sJobMode",
            "shutdownAfterJobFinishes": True,
            "ttlSecondsAfterFinished": place.ttl_s,
            "backoffLimit": 0,
            "submitterPodTemplate": _submitter(place, labels),
            "rayClusterSpec": cluster_spec(cluster, shapes.of_job(cluster, spec), labels),
        },
    }


def cluster_spec(cluster: Cluster, wanted: Shapes, labels: Mapping[str, str]) -> Manifest:
    """Head on CPUs, and one group of workers for each shape."""
    place, env = cluster.kubernetes, [{"name": key, "value": value} for key, value in sorted(cluster.env.items())]
    head = _container("ray-head", place.image, env, _amounts(place.head_cpus, place.head_memory))
    head["ports"] = [
        {"name": "gcs", "containerPort": 6379},
        {"name": "dashboard", "containerPort": DASHBOARD_PORT},
        {"name": "client", "containerPort": 10001},
    ]
    groups = [_slice_group(place, env, labels, shape, count) for shape, count in wanted.slices.items()]
    if wanted.cpu_workers:
        worker = _container("ray-worker", place.image, env, _amounts(place.head_cpus, place.head_memory))
        groups.append(_group("cpu", wanted.cpu_workers, 1, _template(place, labels, worker)))
    return {
        "rayVersion": ray_version(),
        "authOptions": {"mode": "token"},
        "headGroupSpec": {
            "rayStartParams": {"dashboard-host": "0.0.0.0"},
            "template": _template(place, labels, head),
        },
        "workerGroupSpecs": groups,
    }


def checked(cluster: Cluster) -> KubernetesPlace:
    """The Kubernetes part of a profile that can make RayJobs. Raises `ConfigError` for another kind, or no image."""
    if cluster.kind != "kubernetes":
        raise ConfigError(f"kind={cluster.kind!r}: this needs a profile with kind: kubernetes, such as gke-v4")
    if not cluster.kubernetes.image:
        raise ConfigError(
            "kubernetes.image='': name the image with VIM in it, such as REGION-docker.pkg.dev/PROJECT/vim/cpu:1 "
            "(infra/images)"
        )
    return cluster.kubernetes


def _slice_group(
    place: KubernetesPlace, env: list[Manifest], labels: Mapping[str, str], shape: str, count: int
) -> Manifest:
    if not place.accelerator:
        raise ConfigError(f"kubernetes.accelerator='': a component wants a {shape} slice; GKE calls v4 tpu-v4-podslice")
    hosts = topology.parse(shape).hosts
    amounts = {**_amounts(place.host_cpus, place.host_memory), TPU: str(topology.CHIPS_PER_HOST)}
    worker = _container("ray-worker", place.tpu_image or place.image, env, amounts)
    template = _template(place, labels, worker)
    template["spec"]["nodeSelector"] = slice_labels(place, shape)
    template["spec"]["tolerations"] = [{"key": TPU, "operator": "Exists", "effect": "NoSchedule"}]
    return _group(f"tpu-{shape}", count, hosts, template)


def slice_labels(place: KubernetesPlace, shape: str) -> dict[str, str]:
    """GKE's labels of the nodes of such a slice."""
    return {
        "cloud.google.com/gke-tpu-accelerator": place.accelerator,
        "cloud.google.com/gke-tpu-topology": shape,
    }


def _group(name: str, replicas: int, hosts: int, template: Manifest) -> Manifest:
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


def _template(place: KubernetesPlace, labels: Mapping[str, str], container: Manifest) -> Manifest:
    return {
        "metadata": {"labels": {**labels, ROLE: "ray"}},
        "spec": {
            "serviceAccountName": place.service_account,
            # Google's credentials come from the metadata server; nothing here talks to the Kubernetes API.
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


def _submitter(place: KubernetesPlace, labels: Mapping[str, str]) -> Manifest:
    container = _container("submitter", place.image, [], _amounts(1, "1Gi"))
    template = _template(place, labels, container)
    template["metadata"]["labels"] = {**labels, ROLE: "submitter"}
    template["spec"]["restartPolicy"] = "Never"
    return template


def _amounts(cpus: int, memory: str) -> dict[str, str]:
    return {"cpu": str(cpus), "memory": memory}


def ray_version() -> str:
    """The version of Ray in this environment; the images have the same."""
    from importlib.metadata import version

    return version("ray")
