"""The state of a job from its RayJob object and its pods."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from pipelines.jobs.api import FAILED, LOST, PENDING, RUNNING, STOPPED, SUCCEEDED, JobState
from pipelines.jobs.manifests import JOB_ID_ANNOTATION, QUEUE_LABEL

HEAD = {"ray.io/node-type": "head"}
JOB_REASONS = ("AppFailed", "DeadlineExceeded", "ValidationFailed")
"""KubeRay's reasons for errors of the job itself, where no pod was taken away; others are the cluster's."""
NODE_REASONS = ("Evicted", "NodeLost", "NodeShutdown", "Preempting", "Preempted", "Shutdown", "Terminated")
"""Reasons of pods that were lost with their node or taken away."""
KILLED = re.compile(r"exit code (?:-9|-15|137|143)\b|signal (?:9|15|SIGKILL|SIGTERM)\b")
EXITED = re.compile(r"exit(?:ed with)? code -?\d+")
ENDED = {"SUCCEEDED": SUCCEEDED, "STOPPED": STOPPED}


def read(job: dict[str, Any], pods: Sequence[Any] = ()) -> JobState:
    """The state of a RayJob object; its pods tell the job's own failure from a lost node, and why it waits."""
    times = job.get("status") or {}
    status, message = _status(job, pods)
    heads = [pod for pod in pods if HEAD.items() <= (pod.metadata.labels or {}).items()]
    return JobState(
        job_id=job_id(job),
        status=status,
        message=message,
        node=str(heads[0].spec.node_name or "") if heads else "",
        started=seconds(times.get("startTime")),
        ended=seconds(times.get("endTime")),
    )


def job_id(job: dict[str, Any]) -> str:
    """The job's id."""
    metadata = job["metadata"]
    return str((metadata.get("annotations") or {}).get(JOB_ID_ANNOTATION, metadata["name"]))


def seconds(text: str | None) -> float | None:
    """A timestamp of Kubernetes in Unix seconds."""
    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp() if text else None


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
