"""The kind of cluster that is a Kubernetes with KubeRay: a RayJob object for each submission."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

from pipelines.jobs import kubernetes_log, kubernetes_state, manifests, specs
from pipelines.jobs.api import STOPPED, JobState
from pipelines.jobs.kubernetes_api import ANSWER_S, CONNECT_S, Api
from pipelines.jobs.manifests import IDENTITY, JOB_LABEL, MANAGED, ROLE, object_name
from pipelines.jobs.profile import Cluster
from vim_core.errors import VimError

GROUP, VERSION, KIND = "ray.io", "v1", "rayjobs"
SELECTOR = ",".join(f"{key}={value}" for key, value in MANAGED.items())
STOPPED_LABEL = "vim/stopped"
GONE_S = 120.0
WAIT_S = 0.5


class KubernetesBackend:
    """A `Backend` by RayJob objects. Deleting one is how Kubernetes stops it, so a ConfigMap remembers that."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.place = manifests.checked(cluster)

    @cached_property
    def api(self) -> Api:
        """The client, made when it is first needed."""
        return Api(self.place)

    def submit(self, identity: str, spec_uri: str) -> bool:
        """Create the RayJob; False where one of this name is there already. Raises `VimError`, `ConfigError`."""
        import kubernetes

        body = manifests.ray_job(self.cluster, identity, spec_uri, specs.read(spec_uri))
        make = self.api.custom.create_namespaced_custom_object

        def create() -> bool:
            try:
                make(*self._where(), body, _request_timeout=(CONNECT_S, ANSWER_S))
            except kubernetes.client.ApiException as error:
                # Two submitters at once: one made it, the other attaches.
                if error.status == 409:
                    return False
                raise
            return True

        made = self.api.call(create)
        if made is None:
            raise VimError(
                f"Kubernetes at {self.api.address} has no namespace {self.place.namespace}, or no RayJobs: install "
                "KubeRay and apply infra/kubernetes (infra/README.md)"
            )
        if made:
            self._forget_stop(identity)
        return made

    def state(self, identity: str) -> JobState | None:
        """How the RayJob and its pods stand; a stopped one is remembered after its object is gone."""
        job = self._get(identity)
        if job is not None:
            return kubernetes_state.read(job, self._pods(identity))
        kept = self.api.call(
            lambda: self.api.core.read_namespaced_config_map(object_name(identity), self.place.namespace)
        )
        return _stopped(kept) if kept is not None else None

    def jobs(self) -> list[JobState]:
        """Those of this namespace that `vimctl` made, newest first."""
        listed: Any = self.api.call(
            lambda: self.api.custom.list_namespaced_custom_object(*self._where(), label_selector=SELECTOR),
            {"items": []},
        )
        found = {kubernetes_state.identity(job): (_made(job), kubernetes_state.read(job)) for job in listed["items"]}
        kept: Any = self.api.call(
            lambda: self.api.core.list_namespaced_config_map(self.place.namespace, label_selector=STOPPED_LABEL)
        )
        for each in kept.items if kept is not None else []:
            state = _stopped(each)
            found.setdefault(state.identity, (state.ended or 0.0, state))
        return [state for _, state in sorted(found.values(), key=lambda pair: pair[0], reverse=True)]

    def follow(self, identity: str) -> Iterator[str]:
        """Lines of the submitter's log, which shows the driver's output, until the job is over."""

        def over() -> bool:
            state = self.state(identity)
            return state is None or state.over

        yield from kubernetes_log.follow(self.api, lambda: self._pods(identity, "submitter"), over)

    def stop(self, identity: str) -> None:
        """Delete the RayJob with its cluster, and wait until it is gone. Raises `VimError` where it stays."""
        if self._get(identity) is None:
            return
        self._remember_stop(identity)
        self.api.call(
            lambda: self.api.custom.delete_namespaced_custom_object(
                *self._where(), object_name(identity), propagation_policy="Foreground"
            )
        )
        end = time.monotonic() + GONE_S
        while self._get(identity) is not None:
            if time.monotonic() > end:
                name = object_name(identity)
                raise VimError(
                    f"{identity}: the RayJob {name} is still there {GONE_S:.0f} s after it was deleted; "
                    f"`kubectl --namespace {self.place.namespace} describe rayjob {name}` tells why"
                )
            time.sleep(WAIT_S)

    def dashboard(self, identity: str = "") -> str:
        """The job's Ray dashboard behind the gateway of `kubernetes.domain`; '' without one, or before it is up."""
        if not self.place.domain:
            return ""
        base = f"https://ray.{self.place.domain}/"
        if not identity:
            return base
        job = self._get(identity) or {}
        cluster = (job.get("status") or {}).get("rayClusterName", "")
        return f"{base}{cluster}-head-svc/" if cluster else ""

    def _where(self) -> tuple[str, str, str, str]:
        return GROUP, VERSION, self.place.namespace, KIND

    def _get(self, identity: str) -> dict[str, Any] | None:
        return self.api.call(
            lambda: self.api.custom.get_namespaced_custom_object(
                *self._where(), object_name(identity), _request_timeout=(CONNECT_S, ANSWER_S)
            )
        )

    def _pods(self, identity: str, role: str = "") -> list[Any]:
        selector = f"{JOB_LABEL}={object_name(identity)}" + (f",{ROLE}={role}" if role else "")
        listed = self.api.call(lambda: self.api.core.list_namespaced_pod(self.place.namespace, label_selector=selector))
        return list(listed.items) if listed is not None else []

    def _remember_stop(self, identity: str) -> None:
        labels = {**MANAGED, JOB_LABEL: object_name(identity), STOPPED_LABEL: "true"}
        body = {
            "metadata": {"name": object_name(identity), "labels": labels, "annotations": {IDENTITY: identity}},
            "data": {"stopped": datetime.now(UTC).isoformat(timespec="seconds")},
        }
        self._forget_stop(identity)
        self.api.call(lambda: self.api.core.create_namespaced_config_map(self.place.namespace, body))

    def _forget_stop(self, identity: str) -> None:
        self.api.call(lambda: self.api.core.delete_namespaced_config_map(object_name(identity), self.place.namespace))


def _stopped(kept: Any) -> JobState:
    about = kept.metadata
    identity = (about.annotations or {}).get(IDENTITY, about.name)
    return JobState(
        identity, STOPPED, "stopped by `vimctl cancel`", ended=kubernetes_state.seconds(kept.data["stopped"])
    )


def _made(job: dict[str, Any]) -> float:
    return kubernetes_state.seconds(job["metadata"].get("creationTimestamp")) or 0.0
