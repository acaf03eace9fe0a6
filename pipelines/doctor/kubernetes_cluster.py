"""A Kubernetes profile: its fields, and the objects of the deployment behind the cluster's API."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from components.engines import topology
from pipelines.doctor.checks import Result, Target, fail, ok, warn
from pipelines.jobs.profile import KubernetesSettings
from vim_core.errors import ConfigError

TIMEOUT_S = 5
APPLY = "`kubectl apply -k` your overlay of infra/kubernetes"


def check_profile(target: Target) -> list[Result]:
    """Find missing and contradictory values of the profile, without contact to the cluster."""
    assert target.cluster is not None
    cluster, settings = target.cluster, target.cluster.kubernetes
    results = [
        fail(f"kubernetes.{name}", f"empty in the profile {cluster.name}", "fill it in, in a copy of the profile")
        for name in ("image", "namespace", "service_account") if not getattr(settings, name)
    ]  # fmt: skip
    if not settings.queue:
        results.append(
            warn("kubernetes queue", "empty", "without a queue of Kueue, half a slice may wait for the rest")
        )
    for name in target.config.components:
        run = target.run_settings(name)
        if run.device != "xla":
            continue
        try:
            topology.resolve_slices(run)
        except ConfigError as error:
            results.append(fail("topology", f"{name}: {error}", "correct it in the profile's `components`"))
            continue
        if not settings.accelerator:
            text = f"{name} asks for {run.topology}, and kubernetes.accelerator is empty"
            results.append(fail("kubernetes.accelerator", text, "tpu-v4-podslice for v4"))
    return results or [ok("kubernetes profile", f"{cluster.name}: complete, as far as that shows without a cluster")]


def check_api(target: Target) -> list[Result]:
    """Check that the API answers and has the namespace, the account, and KubeRay's and Kueue's objects."""
    assert target.cluster is not None
    settings = target.cluster.kubernetes
    try:
        from kubernetes import client, config
    except ImportError:
        return [fail("kubernetes API", "the package kubernetes is not installed", "install the extra `gke`")]
    try:
        api = config.new_client_from_config(context=settings.context or None)
    except (config.ConfigException, OSError) as error:
        advice = "`gcloud container clusters get-credentials NAME --region …`, or correct kubernetes.context"
        return [fail("kubernetes API", f"no connection to a cluster: {' '.join(str(error).split())}", advice)]
    # The client would repeat each request three times, each with this timeout.
    api.rest_client.pool_manager.connection_pool_kw["retries"] = False
    try:
        version = client.VersionApi(api).get_code(_request_timeout=TIMEOUT_S).git_version
    except Exception as error:
        # urllib3's and the client's own errors share no class.
        return [_failure("kubernetes API", error, "start it, or correct kubernetes.context")]
    return [ok("kubernetes API", f"version {version}"), *_check_objects(client, api, settings)]


def _check_objects(client: Any, api: Any, settings: KubernetesSettings) -> list[Result]:
    core, custom = client.CoreV1Api(api), client.CustomObjectsApi(api)
    scope = {"namespace": settings.namespace, "_request_timeout": TIMEOUT_S}
    reads: list[tuple[str, str, Callable[[], Any], str]] = [
        ("namespace", settings.namespace,
         lambda: core.read_namespace(settings.namespace, _request_timeout=TIMEOUT_S), APPLY),
        ("service account", settings.service_account,
         lambda: core.read_namespaced_service_account(settings.service_account, **scope), APPLY),
        ("KubeRay", "rayjobs", lambda: custom.list_namespaced_custom_object(
            "ray.io", "v1", plural="rayjobs", limit=1, **scope), "install the KubeRay operator"),
        ("queue", settings.queue, lambda: custom.get_namespaced_custom_object(
            "kueue.x-k8s.io", "v1beta2", plural="localqueues", name=settings.queue, **scope),
         f"install Kueue, then {APPLY}"),
    ]  # fmt: skip
    results = []
    for check, name, read, advice in reads:
        if name:
            try:
                read()
                results.append(ok(check, f"{name} is there"))
            except Exception as error:
                results.append(_failure(check, error, advice, name))
    return results


def _failure(check: str, error: Exception, advice: str, name: str = "") -> Result:
    status, text = getattr(error, "status", 0), " ".join(str(error).split())[:200]
    if status == 404:
        return fail(check, f"{name}: not there", advice)
    if status in (401, 403):
        return fail(
            check, f"{name}: this account may not read it ({status})", "ask for the role Kubernetes Engine Developer"
        )
    return fail(check, f"{name}: {text}" if name else text, advice)
