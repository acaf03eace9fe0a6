"""Jobs on Kubernetes with KubeRay: a RayJob object for each, whose state follows from it and its pods."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

from pipelines.jobs import kubernetes_api, manifests, specs
from pipelines.jobs.api import FAILED, LOST, PENDING, RUNNING, STOPPED, SUCCEEDED, JobState
from pipelines.jobs.kubernetes_api import CONNECT_S, READ_S, Api
from pipelines.jobs.manifests import JOB_ID_ANNOTATION, JOB_LABEL, MANAGED, QUEUE_LABEL, ROLE_LABEL, object_name
from pipelines.jobs.profile import Cluster
from vim_core.errors import VimError

SELECTOR = ",".join(f"{key}={value}" for key, value in MANAGED.items())
STOPPED_LABEL = "vim/stopped"
DELETE_S = 120.0
WAIT_S = 0.5
HEAD = {"ray.io/node-type": "head"}
JOB_REASONS = ("AppFailed", "DeadlineExceeded", "ValidationFailed")
"""KubeRay's reasons for errors of the job itself, where no pod was taken away; others are the cluster's."""
NODE_REASONS = ("Evicted", "NodeLost", "NodeShutdown", "Preempting", "Preempted", "Shutdown", "Terminated")
"""Reasons of pods that were lost with their node or taken away."""
KILLED = re.compile(r"exit code (?:-9|-15|137|143)\b|signal (?:9|15|SIGKILL|SIGTERM)\b")
EXITED = re.compile(r"exit(?:ed with)? code -?\d+")
ENDED = {"SUCCEEDED": SUCCEEDED, "STOPPED": STOPPED}


class KubernetesBackend:
    """A `Backend` of RayJob objects. A job is stopped by deleting its object; a ConfigMap records that."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.settings = manifests.kubernetes_settings(cluster)
        self._resource = ("ray.io", "v1", self.settings.namespace, "rayjobs")

    @cached_property
    def api(self) -> Api:
        """The client, made when it is first needed."""
        return Api(self.settings)

    def submit(self, job_id: str, spec_uri: str) -> bool:
        """Create the RayJob; False where one of this id is there already. Raises `VimError`, `ConfigError`."""
        import kubernetes

        body = manifests.ray_job(self.cluster, job_id, spec_uri, specs.read(spec_uri))

        def create() -> bool:
            try:
                self.api.custom.create_namespaced_custom_object(
                    *self._resource, body, _request_timeout=(CONNECT_S, READ_S)
                )
            except kubernetes.client.ApiException as error:
                # Two submitters at once: one created it, this one attaches.
                if error.status == 409:
                    return False
                raise
            return True

        created = self.api.call(create)
        if created is None:
            raise VimError(
                f"Kubernetes at {self.api.address} has no namespace {self.settings.namespace}, or no RayJobs: install "
                "KubeRay and apply infra/kubernetes (infra/README.md)"
            )
        if created:
            self._forget_stop(job_id)
        return created

    def state(self, job_id: str) -> JobState | None:
        """The state of the RayJob and its pods, or of a stopped one whose object is gone."""
        job = self._get(job_id)
        if job is not None:
            return _read_state(job, self._pods(job_id))
        stop_record = self.api.call(
            lambda: self.api.core.read_namespaced_config_map(object_name(job_id), self.settings.namespace)
        )
        return _stopped(stop_record) if stop_record is not None else None

    def jobs(self) -> list[JobState]:
        """Those of this namespace that `vimctl` made, newest first."""
        listed = self.api.call(
            lambda: self.api.custom.list_namespaced_custom_object(*self._resource, label_selector=SELECTOR)
        )
        timed = {
            _job_id(job): (_seconds(job["metadata"].get("creationTimestamp")) or 0.0, _read_state(job))
            for job in (listed["items"] if listed is not None else [])
        }
        stop_records: Any = self.api.call(
            lambda: self.api.core.list_namespaced_config_map(self.settings.namespace, label_selector=STOPPED_LABEL)
        )
        for record in stop_records.items if stop_records is not None else []:
            state = _stopped(record)
            timed.setdefault(state.job_id, (state.ended or 0.0, state))
        return [state for _, state in sorted(timed.values(), key=lambda pair: pair[0], reverse=True)]

    def follow(self, job_id: str) -> Iterator[str]:
        """Lines of the submitter's log, which contains the driver's output, until the job is finished."""

        def finished() -> bool:
            state = self.state(job_id)
            return state is None or state.finished

        yield from kubernetes_api.follow(self.api, lambda: self._pods(job_id, "submitter"), finished)

    def stop(self, job_id: str) -> None:
        """Delete the RayJob with its cluster, and wait until it is gone. Raises `VimError` where it stays."""
        if self._get(job_id) is None:
            return
        record = {
            "metadata": {
                "name": object_name(job_id),
                "labels": {**MANAGED, JOB_LABEL: object_name(job_id), STOPPED_LABEL: "true"},
                "annotations": {JOB_ID_ANNOTATION: job_id},
            },
            "data": {"stopped": datetime.now(UTC).isoformat(timespec="seconds")},
        }
        self._forget_stop(job_id)
        self.api.call(lambda: self.api.core.create_namespaced_config_map(self.settings.namespace, record))
        self.api.call(
            lambda: self.api.custom.delete_namespaced_custom_object(
                *self._resource, object_name(job_id), propagation_policy="Foreground"
            )
        )
        end = time.monotonic() + DELETE_S
        while self._get(job_id) is not None:
            if time.monotonic() > end:
                name = object_name(job_id)
                raise VimError(
                    f"{job_id}: the RayJob {name} is still there {DELETE_S:.0f} s after it was deleted; "
                    f"`kubectl --namespace {self.settings.namespace} describe rayjob {name}` tells why"
                )
            time.sleep(WAIT_S)

    def dashboard(self, job_id: str = "") -> str:
        """The job's Ray dashboard behind the gateway of `kubernetes.domain`; '' without one, or before it is up."""
        if not self.settings.domain:
            return ""
        base = f"https://ray.{self.settings.domain}/"
        if not job_id:
            return base
        job = self._get(job_id) or {}
        cluster = (job.get("status") or {}).get("rayClusterName", "")
        return f"{base}{cluster}-head-svc/" if cluster else ""

    def _get(self, job_id: str) -> dict[str, Any] | None:
        return self.api.call(
            lambda: self.api.custom.get_namespaced_custom_object(
                *self._resource, object_name(job_id), _request_timeout=(CONNECT_S, READ_S)
            )
        )

    def _pods(self, job_id: str, role: str = "") -> list[Any]:
        selector = f"{JOB_LABEL}={object_name(job_id)}" + (f",{ROLE_LABEL}={role}" if role else "")
        listed = self.api.call(
            lambda: self.api.core.list_namespaced_pod(self.settings.namespace, label_selector=selector)
        )
        return list(listed.items) if listed is not None else []

    def _forget_stop(self, job_id: str) -> None:
        self.api.call(lambda: self.api.core.delete_namespaced_config_map(object_name(job_id), self.settings.namespace))


def _stopped(record: Any) -> JobState:
    metadata = record.metadata
    job_id = (metadata.annotations or {}).get(JOB_ID_ANNOTATION, metadata.name)
    return JobState(job_id, STOPPED, "stopped by `vimctl cancel`", ended=_seconds(record.data["stopped"]))


def _read_state(job: dict[str, Any], pods: Sequence[Any] = ()) -> JobState:
    """The state of a RayJob object; its pods tell the job's own failure from a lost node, and why it waits."""
    times = job.get("status") or {}
    heads = [pod for pod in pods if HEAD.items() <= (pod.metadata.labels or {}).items()]
    node = str(heads[0].spec.node_name or "") if heads else ""
    started, ended = _seconds(times.get("startTime")), _seconds(times.get("endTime"))
    return JobState(_job_id(job), *_status(job, pods), node, started, ended)


def _job_id(job: dict[str, Any]) -> str:
    metadata = job["metadata"]
    return str((metadata.get("annotations") or {}).get(JOB_ID_ANNOTATION, metadata["name"]))


def _seconds(text: str | None) -> float | None:
    """A timestamp of Kubernetes in Unix seconds."""
    return datetime.fromisoformat(text).timestamp() if text else None


def _status(job: dict[str, Any], pods: Sequence[Any]) -> tuple[str, str]:
    """A job's status and the reason for it."""
    status = job.get("status") or {}
    deployment, outcome = status.get("jobDeploymentStatus", ""), status.get("jobStatus", "")
    message = " ".join(str(status.get("message", "")).split())
    if deployment == "Failed" or outcome == "FAILED":
        return _failed(status.get("reason", ""), message, pods)
    if outcome in ENDED:
        return ENDED[outcome], message
    if deployment == "Complete":
        # Complete only means that nothing runs any more; the job itself reported no result.
        return LOST, message or "its Ray cluster ended before it reported the job's result"
    if outcome == "RUNNING":
        return RUNNING, message
    return PENDING, message or _waiting(job, deployment, pods)


def _failed(reason: str, message: str, pods: Sequence[Any]) -> tuple[str, str]:
    lost = [f"{pod.metadata.name} on {pod.spec.node_name}: {why}" for pod in pods if (why := _disruption(pod))]
    text = ": ".join(filter(None, [reason, message])) or "no reason given"
    if lost:
        return LOST, f"{text} ({'; '.join(lost)})"
    if KILLED.search(message):
        return LOST, text
    own = reason in JOB_REASONS and (reason != "AppFailed" or not message or EXITED.search(message))
    return (FAILED if own else LOST), text


def _disruption(pod: Any) -> str:
    """The reason where a pod was lost with its node or evicted, else ''."""
    if pod.status.reason in NODE_REASONS:
        return str(pod.status.reason)
    for condition in pod.status.conditions or []:
        if condition.type == "DisruptionTarget" and condition.status == "True":
            return str(condition.reason or "DisruptionTarget")
    return ""


def _waiting(job: dict[str, Any], deployment: str, pods: Sequence[Any]) -> str:
    queue = (job["metadata"].get("labels") or {}).get(QUEUE_LABEL, "")
    if deployment.startswith("Suspend") or (job["spec"].get("suspend") and queue):
        return f"waits in the queue {queue} for its place"
    for pod in pods:
        for condition in pod.status.conditions or []:
            if condition.type == "PodScheduled" and condition.status == "False":
                return f"{pod.metadata.name} has no node yet: {condition.message or condition.reason}"
    return f"its Ray cluster starts ({deployment})" if deployment else "the operator has not seen it yet"
