"""Cores of Ray workers: `run.threads`, or what the nodes have, shared by the workers that run there."""

from __future__ import annotations

from collections.abc import Sequence

from vim_core.config import RunConfig
from vim_core.distributed.runtimes import resolve_threads

ACCELERATORS = {"cuda": "GPU", "xla": "TPU"}
"""Ray's names of the resources of which every worker takes one."""


def worker_threads(run: RunConfig, device: str, host_wide: bool = False) -> int:
    """Cores that each of `run.workers` workers asks Ray for, and its threads.

    Where `run.threads` is 0: on a running cluster a share of a node's CPUs; on this machine a share of its cores beside
    other workers with a GPU, but all of them on CPU, where the number of threads decides bits.

    Args:
        run: where the pipeline runs.
        device: cpu, cuda or xla.
        host_wide: a worker has all accelerators of its host.

    Ray must be connected, unless `run.ray_address` is empty.
    """
    if run.threads:
        return run.threads
    if not run.ray_address:
        return max(1, resolve_threads(0) // run.workers) if device == "cuda" else resolve_threads(0)
    import ray

    accelerator = ACCELERATORS.get(device, "")
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    places = [
        (int(node.get("CPU", 0)), (1 if host_wide else int(node[accelerator])) if accelerator else run.workers)
        for node in nodes
        if not accelerator or node.get(accelerator, 0) >= 1
    ]
    return largest_share(places, run.workers)


def largest_share(places: Sequence[tuple[int, int]], workers: int) -> int:
    """The most cores that all workers can have alike; 1 where they do not fit, as before a cluster grows.

    Args:
        places: cores of each node, and the most workers that it takes.
        workers: their number.
    """

    def fitting(share: int) -> int:
        return sum(min(cores // share, most) for cores, most in places)

    cores = max((cores for cores, _ in places), default=1)
    return next((share for share in range(cores, 0, -1) if fitting(share) >= workers), 1)
