"""A Kubernetes profile: what can be told of its fields alone, and what the cluster's API says where there is one."""

from __future__ import annotations

from typing import Any

from components.engines import topology
from pipelines.doctor.findings import Finding, Subject, fail, ok, warn
from pipelines.jobs.profile import Cluster
from vim_core.errors import ConfigError

TIMEOUT_S = 5


def fields(subject: Subject) -> list[Finding]:
    """What is missing or contradicts itself in the profile."""
    assert subject.cluster is not None
    own = subject.cluster
    found = [
        _filled(own, name) for name in ("image", "namespace", "service_account") if not getattr(own.kubernetes, name)
    ]
    if not own.kubernetes.queue:
        found.append(warn("kubernetes queue", "empty", "without a queue of Kueue, half a slice may wait for the rest"))
    found += _slices(subject)
    return found or [ok("kubernetes profile", f"{own.name}: complete, as far as that can be told without a cluster")]


def api(subject: Subject) -> list[Finding]:
    """Whether the API answers, and has the namespace, KubeRay's and Kueue's objects, and the account."""
    assert subject.cluster is not None
    place = subject.cluster.kubernetes
    try:
        from kubernetes import client, config
    except ImportError:
        return [fail("kubernetes API", "the package kubernetes is not installed", "install the extra `gke`")]
    try:
        made = config.new_client_from_config(context=place.context or None)
    except (config.ConfigException, OSError) as error:
        advice = "`gcloud container clusters get-credentials NAME --region …`, or correct kubernetes.context"
        return [fail("kubernetes API", f"no way to a cluster: {' '.join(str(error).split())}", advice)]
    # The client tries again three times by itself, each with this timeout.
    made.rest_client.pool_manager.connection_pool_kw["retries"] = False
    return _asked(client, made, subject.cluster)


def _asked(client: Any, made: Any, own: Cluster) -> list[Finding]:
    place, core, objects = own.kubernetes, client.CoreV1Api(made), client.CustomObjectsApi(made)
    spaced = {"namespace": place.namespace, "_request_timeout": TIMEOUT_S}
    try:
        version = client.VersionApi(made).get_code(_request_timeout=TIMEOUT_S).git_version
    except Exception as error:
        # urllib3's and the client's own errors share no class.
        return [_refused("kubernetes API", error, "start it, or correct kubernetes.context")]
    looks = [
        ("namespace", f"{place.namespace}", lambda: core.read_namespace(place.namespace, _request_timeout=TIMEOUT_S),
         "apply infra/kubernetes"),
        ("service account", place.service_account,
         lambda: core.read_namespaced_service_account(place.service_account, **spaced),
         "apply infra/kubernetes"),
        ("KubeRay", "rayjobs", lambda: objects.list_namespaced_custom_object(
            "ray.io", "v1", plural="rayjobs", limit=1, **spaced), "install the KubeRay operator"),
        ("queue", place.queue, lambda: objects.get_namespaced_custom_object(
            "kueue.x-k8s.io", "v1beta2", plural="localqueues", name=place.queue, **spaced),
         "install Kueue and apply infra/kubernetes"),
    ]  # fmt: skip
    found = [ok("kubernetes API", f"version {version}")]
    for check, name, look, advice in looks:
        if name:
            found.append(_look(check, name, look, advice))
    return found


def _look(check: str, name: str, look: Any, advice: str) -> Finding:
    try:
        look()
    except Exception as error:
        return _refused(check, error, advice, name)
    return ok(check, f"{name} is there")


def _refused(check: str, error: Exception, advice: str, name: str = "") -> Finding:
    status, said = getattr(error, "status", 0), " ".join(str(error).split())[:200]
    if status == 404:
        return fail(check, f"{name}: not there", advice)
    if status in (401, 403):
        return fail(
            check, f"{name}: this account may not look ({status})", "ask for the role Kubernetes Engine Developer"
        )
    return fail(check, f"{name}: {said}" if name else said, advice)


def _filled(own: Cluster, name: str) -> Finding:
    return fail(f"kubernetes.{name}", f"empty in the profile {own.name}", "fill it in, in a copy of the profile")


def _slices(subject: Subject) -> list[Finding]:
    assert subject.cluster is not None
    found = []
    for name in subject.config.components:
        run = subject.place(name)
        if run.device != "xla":
            continue
        try:
            topology.slices_of(run)
        except ConfigError as error:
            found.append(fail("topology", f"{name}: {error}", "correct it in the profile's `components`"))
            continue
        if not subject.cluster.kubernetes.accelerator:
            text = f"{name} asks for {run.topology}, and kubernetes.accelerator is empty"
            found.append(fail("kubernetes.accelerator", text, "tpu-v4-podslice for v4"))
    return found
