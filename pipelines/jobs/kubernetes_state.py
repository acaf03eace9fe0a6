"""What RayJob objects and their pods say of a job, in VIM's words."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from pipelines.jobs.api import FAILED, LOST, PENDING, RUNNING, STOPPED, SUCCEEDED, JobState
from pipelines.jobs.manifests import IDENTITY, QUEUE_LABEL

HEAD = {"ray.io/node-type": "head"}
OWN_REASONS = ("AppFailed", "DeadlineExceeded", "ValidationFailed")
"""KubeRay's reasons that another attempt would meet again, where no pod was taken away; others are the cluster's."""
TAKEN = ("Evicted", "NodeLost", "NodeShutdown", "Preempting", "Preempted", "Shutdown", "Terminated")
"""Reasons of pods whose node went, or took them away."""
KILLED = re.compile(r"exit code (?:-9|-15|137|143)\b|signal (?:9|15|SIGKILL|SIGTERM)\b")
EXITED = re.compile(r"exit(?:ed with)? code -?\d+")
ENDED = {"SUCCEEDED": SUCCEEDED, "STOPPED": STOPPED}


def read(job: dict[str, Any], pods: Sequence[Any] = ()) -> JobState:
    """The state of a RayJob object; its pods tell a failure of its own from a lost node, and why it waits."""
    status = job.get("status") or {}
    state, message = _judged(job, status, pods)
    return JobState(
        identity=identity(job),
        status=state,
        message=message,
        node=_node(pods),
        started=seconds(status.get("startTime")),
        ended=seconds(status.get("endTime")),
    )


def identity(job: dict[str, Any]) -> str:
    """The submission id that the user knows."""
    about = job["metadata"]
    return str((about.get("annotations") or {}).get(IDENTITY, about["name"]))


def seconds(text: str | None) -> float | None:
    """A time of Kubernetes' as seconds since 1970."""
    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp() if text else None


def _judged(job: dict[str, Any], status: dict[str, Any], pods: Sequence[Any]) -> tuple[str, str]:
    deployed, ran = status.get("jobDeploymentStatus", ""), status.get("jobStatus", "")
    message = " ".join(str(status.get("message", "")).split())
    if deployed == "Failed" or ran == "FAILED":
        return _failed(status.get("reason", ""), message, pods)
    if ran in ENDED:
        return ENDED[ran], message
    if deployed == "Complete":
        # Complete says that nothing runs any more, and the job itself never said how it ended.
        return LOST, message or "its Ray cluster ended before it said how the job went"
    if ran == "RUNNING":
        return RUNNING, message
    return PENDING, message or _waiting(job, deployed, pods)


def _failed(reason: str, message: str, pods: Sequence[Any]) -> tuple[str, str]:
    taken = [f"{pod.metadata.name} on {pod.spec.node_name}: {why}" for pod in pods if (why := _taken(pod))]
    text = ": ".join(filter(None, [reason, message])) or "no reason given"
    if taken:
        return LOST, f"{text} ({'; '.join(taken)})"
    if KILLED.search(message):
        return LOST, text
    own = reason in OWN_REASONS and (reason != "AppFailed" or not message or EXITED.search(message))
    return (FAILED if own else LOST), text


def _taken(pod: Any) -> str:
    """Why its node or the cluster took a pod away; '' where it did not."""
    if pod.status.reason in TAKEN:
        return str(pod.status.reason)
    for condition in pod.status.conditions or []:
        if condition.type == "DisruptionTarget" and condition.status == "True":
            return str(condition.reason or "DisruptionTarget")
    return ""


def _waiting(job: dict[str, Any], deployed: str, pods: Sequence[Any]) -> str:
    queue = (job["metadata"].get("labels") or {}).get(QUEUE_LABEL, "")
    if deployed.startswith("Suspend") or (job["spec"].get("suspend") and queue):
        return f"waits in the queue {queue} for its place"
    for pod in pods:
        for condition in pod.status.conditions or []:
            if condition.type == "PodScheduled" and condition.status == "False":
                return f"{pod.metadata.name} has no node yet: {condition.message or condition.reason}"
    return f"its Ray cluster starts ({deployed})" if deployed else "the operator has not seen it yet"


def _node(pods: Sequence[Any]) -> str:
    heads = [pod for pod in pods if HEAD.items() <= (pod.metadata.labels or {}).items()]
    return str(heads[0].spec.node_name or "") if heads else ""
