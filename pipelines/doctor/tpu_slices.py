"""TPU slices as Ray reports them: labels of the nodes, and slices for the components' topologies."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Protocol

from components.engines import topology
from pipelines.doctor.results import Result, Target, fail, ok
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
    """The fields of a Ray node that are used here."""

    @property
    def address(self) -> str:
        """IP address."""

    @property
    def resources(self) -> Mapping[str, float]:
        """Such as TPU: 4."""

    @property
    def labels(self) -> Mapping[str, str]:
        """Such as ray.io/tpu-topology: 2x2x1."""


def check_slices(target: Target, nodes: Sequence[Node]) -> list[Result]:
    """Results for the labels of TPU nodes, and for the topology of each component."""
    tpus = [node for node in nodes if node.resources.get("TPU")]
    requested: dict[tuple[str, int], list[str]] = defaultdict(list)
    invalid = []
    for name in target.config.components:
        run = target.run_settings(name)
        if run.device == "xla":
            try:
                requested[run.topology.lower(), topology.resolve_slices(run)[1]].append(name)
            except ConfigError as error:
                invalid.append(fail("topology", f"{name}: {error}", "correct it in the cluster's profile"))
    results = [_check_slice(shape, count, names, tpus) for (shape, count), names in requested.items()]
    return [*_check_labels(tpus), *results, *invalid]


def _check_labels(tpus: Sequence[Node]) -> list[Result]:
    """Check that each TPU node has the four labels by which Ray finds whole slices."""
    if not tpus:
        return []
    missing = {
        node.address: [label for label in (NAME, WORKER, TOPOLOGY, POD) if not node.labels.get(label)] for node in tpus
    }
    incomplete = {address: labels for address, labels in missing.items() if labels}
    if not incomplete:
        return [ok("topology labels", f"{len(tpus)} TPU nodes have all four")]
    address, labels = next(iter(incomplete.items()))
    text = f"{len(incomplete)} of {len(tpus)} TPU nodes lack labels; {address}: {', '.join(labels)}"
    return [fail("topology labels", text, WEBHOOK)]


def _check_slice(shape: str, wanted: int, components: list[str], tpus: Sequence[Node]) -> Result:
    available, names = count_slices(tpus), ", ".join(components)
    slice_ = topology.parse(shape)
    if available.get(shape, 0) >= wanted:
        return ok("topology", f"{names}: {available[shape]} x {shape} ({slice_.pod_type}) is there")
    have = ", ".join(f"{count} x {name}" for name, count in sorted(available.items())) or "no whole slice"
    text = f"{names}: wants {wanted} x {shape} ({slice_.pod_type}, {slice_.hosts} hosts), and the cluster has {have}"
    advice = f"make a node pool of {shape}, or set run.topology to what is there"
    return fail("topology", text, f"{advice}; {WEBHOOK}" if not available and tpus else advice)


def count_slices(tpus: Sequence[Node]) -> dict[str, int]:
    """The number of whole slices of each topology: all its hosts, numbered without a gap, one of them the head."""
    hosts: dict[tuple[str, str], list[Node]] = defaultdict(list)
    for node in tpus:
        hosts[node.labels.get(NAME, ""), node.labels.get(TOPOLOGY, "")].append(node)
    counts: dict[str, int] = defaultdict(int)
    for (name, shape), members in hosts.items():
        if name and shape and _is_complete(shape, members):
            counts[shape] += 1
    return dict(counts)


def _is_complete(shape: str, members: Sequence[Node]) -> bool:
    try:
        expected = topology.parse(shape)
    except ConfigError:
        return False
    numbers = sorted(node.labels.get(WORKER, "") for node in members)
    has_head = any(node.resources.get(f"TPU-{expected.pod_type}-head") for node in members)
    return numbers == sorted(map(str, range(expected.hosts))) and has_head
