"""TPU slices as Ray sees them: labels of the nodes, and whether the topologies that are asked for are there."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Protocol

from components.engines import topology
from pipelines.doctor.findings import Finding, Subject, fail, ok
from vim_core.errors import ConfigError

NAME, WORKER, TOPOLOGY, POD = (
    "ray.io/tpu-slice-name",
    "ray.io/tpu-worker-id",
    "ray.io/tpu-topology",
    "ray.io/tpu-pod-type",
)
WEBHOOK = (
    "on GKE the TPU webhook of KubeRay sets what they are read from (TPU_NAME, TPU_WORKER_ID, TPU_TOPOLOGY): install "
    "it, then make the pods again; elsewhere start Ray with --labels"
)


class Node(Protocol):
    """What is looked at of a node."""

    @property
    def address(self) -> str:
        """Where it is."""

    @property
    def resources(self) -> Mapping[str, float]:
        """Such as TPU: 4."""

    @property
    def labels(self) -> Mapping[str, str]:
        """Such as ray.io/tpu-topology: 2x2x1."""


def slices(subject: Subject, nodes: Sequence[Node]) -> list[Finding]:
    """Findings on the labels of TPU nodes, and on every topology that a component asks for."""
    tpus = [node for node in nodes if node.resources.get("TPU")]
    asked = _asked(subject)
    found = labels(tpus)
    for (name, workers), components in asked.items():
        found.append(_there(name, workers, components, tpus))
    return found + _mistaken(subject)


def labels(tpus: Sequence[Node]) -> list[Finding]:
    """Whether each TPU node has the four labels by which Ray finds whole slices."""
    if not tpus:
        return []
    lacking = {
        node.address: [label for label in (NAME, WORKER, TOPOLOGY, POD) if not node.labels.get(label)] for node in tpus
    }
    without = {address: missing for address, missing in lacking.items() if missing}
    if not without:
        return [ok("topology labels", f"{len(tpus)} TPU nodes have all four")]
    address, missing = next(iter(without.items()))
    text = f"{len(without)} of {len(tpus)} TPU nodes lack labels; {address}: {', '.join(missing)}"
    return [fail("topology labels", text, WEBHOOK)]


def complete(tpus: Sequence[Node]) -> dict[str, int]:
    """How many whole slices of each topology there are: as many hosts as it has, numbered without a gap, and a head."""
    hosts: dict[tuple[str, str], list[Node]] = defaultdict(list)
    for node in tpus:
        hosts[node.labels.get(NAME, ""), node.labels.get(TOPOLOGY, "")].append(node)
    found: dict[str, int] = defaultdict(int)
    for (name, shape), members in hosts.items():
        if name and shape and _whole(shape, members):
            found[shape] += 1
    return dict(found)


def _whole(shape: str, members: Sequence[Node]) -> bool:
    try:
        wanted = topology.parse(shape)
    except ConfigError:
        return False
    numbers = sorted(node.labels.get(WORKER, "") for node in members)
    headed = any(node.resources.get(f"TPU-{wanted.pod_type}-head") for node in members)
    return numbers == sorted(map(str, range(wanted.hosts))) and headed


def _asked(subject: Subject) -> dict[tuple[str, int], list[str]]:
    """Components by the topology and number of slices that they want."""
    found: dict[tuple[str, int], list[str]] = defaultdict(list)
    for name in subject.config.components:
        run = subject.place(name)
        if run.device == "xla" and run.topology:
            try:
                found[run.topology.lower(), topology.slices_of(run)[1]].append(name)
            except ConfigError:
                continue
    return found


def _mistaken(subject: Subject) -> list[Finding]:
    """Topologies that no v4 has, or that the workers do not fill."""
    found = []
    for name in subject.config.components:
        run = subject.place(name)
        if run.device == "xla":
            try:
                topology.slices_of(run)
            except ConfigError as error:
                found.append(fail("topology", f"{name}: {error}", "correct it in the cluster's profile"))
    return found


def _there(shape: str, wanted: int, components: list[str], tpus: Sequence[Node]) -> Finding:
    found, who = complete(tpus), ", ".join(components)
    slice_ = topology.parse(shape)
    if found.get(shape, 0) >= wanted:
        return ok("topology", f"{who}: {found[shape]} x {shape} ({slice_.pod_type}) is there")
    have = ", ".join(f"{count} x {name}" for name, count in sorted(found.items())) or "no whole slice"
    text = f"{who}: wants {wanted} x {shape} ({slice_.pod_type}, {slice_.hosts} hosts), and the cluster has {have}"
    advice = f"make a node pool of {shape}, or set run.topology to what is there"
    return fail("topology", text, f"{advice}; {WEBHOOK}" if not found and tpus else advice)
