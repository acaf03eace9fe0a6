"""Kueue: kinds of nodes, how much of each jobs may take together, and the queue they are put in."""

from __future__ import annotations

from components.engines import topology
from pipelines.deploying.deployment import Deployment
from pipelines.deploying.objects import about
from pipelines.jobs import shapes
from pipelines.jobs.manifests import TPU, Manifest, slice_labels

API = "kueue.x-k8s.io/v1beta2"
RESOURCES = ("cpu", "memory", TPU)
ON_CPUS = "vim-cpu"


def queues(made: Deployment) -> list[Manifest]:
    """A flavor for CPUs and one for each topology, the cluster's queue over them, and the namespace's queue.

    Raises:
        ConfigError: a topology that v4 does not have.
    """
    place = made.place
    slices = dict(place.slices) or dict(shapes.of_profile(made.cluster).slices)
    flavors: list[Manifest] = [_flavor(ON_CPUS, {})]
    quotas = [_quota(ON_CPUS, str(place.quota_cpus), place.quota_memory, 0)]
    for shape, count in slices.items():
        hosts = topology.parse(shape).hosts * count
        spec = {
            "nodeLabels": slice_labels(place, shape),
            # A head has no toleration, so Kueue never counts it among the hosts of a slice.
            "nodeTaints": [{"key": TPU, "value": "present", "effect": "NoSchedule"}],
        }
        flavors.append(_flavor(f"vim-v4-{shape}", spec))
        memory = _times(place.host_memory, hosts)
        chips = topology.CHIPS_PER_HOST * hosts
        quotas.append(_quota(f"vim-v4-{shape}", str(place.host_cpus * hosts), memory, chips))
    return [*flavors, _cluster_queue(made, quotas), _local_queue(made)]


def _flavor(name: str, spec: Manifest) -> Manifest:
    return {"apiVersion": API, "kind": "ResourceFlavor", "metadata": about("", name), "spec": spec}


def _quota(name: str, cpus: str, memory: str, chips: int) -> Manifest:
    amounts = zip(RESOURCES, (cpus, memory, str(chips)), strict=True)
    return {"name": name, "resources": [{"name": each, "nominalQuota": amount} for each, amount in amounts]}


def _cluster_queue(made: Deployment, quotas: list[Manifest]) -> Manifest:
    return {
        "apiVersion": API,
        "kind": "ClusterQueue",
        "metadata": about("", made.place.queue),
        "spec": {
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": made.namespace}},
            # A job that needs a large slice does not hold up the small ones behind it.
            "queueingStrategy": "BestEffortFIFO",
            "resourceGroups": [{"coveredResources": list(RESOURCES), "flavors": quotas}],
        },
    }


def _local_queue(made: Deployment) -> Manifest:
    return {
        "apiVersion": API,
        "kind": "LocalQueue",
        "metadata": about(made.namespace, made.place.queue),
        "spec": {"clusterQueue": made.place.queue},
    }


def _times(memory: str, count: int) -> str:
    digits = memory.rstrip("KMGTPEi")
    return f"{int(digits) * count}{memory[len(digits) :]}"
