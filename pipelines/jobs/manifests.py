"""RayJob objects for a profile, as plain dicts, with what each asks for; no secret is ever in them."""

from __future__ import annotations

import dataclasses
import hashlib
import re
import shlex
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from typing import Any

from components.contract import registry
from components.engines import topology
from pipelines.jobs.api import JobSpec
from pipelines.jobs.profile import Cluster, KubernetesSettings
from vim_core.config import RunConfig
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
MAX_WORKER_GROUPS = 7
"""Kueue admits a job as at most 8 sets of pods, and one of them is the head."""
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
            "rayClusterSpec": _ray_cluster_spec(cluster, spec, labels),
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


def _ray_cluster_spec(cluster: Cluster, spec: JobSpec, labels: Mapping[str, str]) -> Manifest:
    """A head on CPUs, and a group of workers for each topology."""
    settings = cluster.kubernetes
    slices, cpu_workers = _resources(cluster, spec)
    env = [{"name": key, "value": value} for key, value in sorted(cluster.env.items())]
    cpus = {"cpu": str(settings.head_cpus), "memory": settings.head_memory}
    head = _container("ray-head", settings.image, env, cpus)
    ports = {"gcs": 6379, "dashboard": 8265, "client": 10001}
    head["ports"] = [{"name": name, "containerPort": port} for name, port in ports.items()]
    groups = [_slice_group(settings, env, labels, shape, count) for shape, count in slices.items()]
    if cpu_workers:
        worker = _container("ray-worker", settings.image, env, cpus)
        groups.append(_worker_group("cpu", cpu_workers, 1, _pod_template(settings, labels, worker)))
    return {
        "rayVersion": version("ray"),  # the images have the same as this environment
        "authOptions": {"mode": "token"},
        "headGroupSpec": {
            "rayStartParams": {"dashboard-host": "0.0.0.0"},
            "template": _pod_template(settings, labels, head),
        },
        "workerGroupSpecs": groups,
    }


def _resources(cluster: Cluster, spec: JobSpec) -> tuple[dict[str, int], int]:
    """Slices by topology and CPU workers beside the head: the most that one of the components uses.

    The components run one after another.

    Raises:
        ConfigError: a component needs GPUs or a slice that v4 does not have, or the job needs too many groups.
    """
    import yaml

    tree = yaml.safe_load(spec.settings)
    if not isinstance(tree, dict):
        raise ConfigError(f"settings of the job: expected a preset's settings as YAML, not {type(tree).__name__}")
    slices: dict[str, int] = {}
    workers = 0
    for name in _components_to_run(spec, list(tree.get("components", []))):
        run = cluster.run_settings(RunConfig(**tree.get("run", {})), name)
        run = dataclasses.replace(run, **spec.places.get(name, {}))
        if run.device == "cuda":
            raise ConfigError(
                f"components.{name}.device='cuda': RayJob objects are made for CPUs and TPU slices; for GPUs bring "
                "up a Ray cluster of your own and use a profile with kind: jobs"
            )
        if run.device == "xla" and run.topology:
            _, count = topology.resolve_slices(run)
            shape = run.topology.lower()
            slices[shape] = max(slices.get(shape, 0), count)
        elif run.workers > 1:
            workers = max(workers, run.workers)
    if len(slices) + bool(workers) > MAX_WORKER_GROUPS:
        raise ConfigError(
            f"components: they ask for {len(slices)} shapes of slices ({', '.join(sorted(slices))}); Kueue admits "
            f"at most {MAX_WORKER_GROUPS} kinds of workers in a job: give several components the same topology"
        )
    return dict(sorted(slices.items(), key=lambda item: topology.parse(item[0]).dimensions)), workers


def _components_to_run(spec: JobSpec, components: list[str]) -> list[str]:
    """The components that a job may run, in flow order, whether or not their artifacts exist already.

    These are all, or the target and its inputs, or the target alone; with a start, what is made from it and its inputs.

    Raises:
        ConfigError: no component of that name.
    """

    def with_inputs(names: Iterable[str]) -> set[str]:
        return {each for name in names for each in [name, *registry.upstream(name, components)]}

    ordered = registry.in_flow_order(components)
    if spec.only and spec.target:
        return [spec.target]
    wanted = with_inputs([spec.target] if spec.target else ordered)
    if spec.start:
        wanted = with_inputs(wanted.intersection(registry.downstream(spec.start, components)))
    return [name for name in ordered if name in wanted]


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
