"""`python -m pipelines.jobs.loopback_node start …`: `ray start` for several nodes on loopback."""

from __future__ import annotations

HOST = "127.0.0.1"


def main() -> None:
    """Start a node and stay until it ends.

    Ray would put the machine's own address in place of 127.0.0.1 and listen to the network, or, restricted to
    loopback as on macOS (`local_cluster.LOOPBACK`), refuse a second node.
    """
    from ray._private import ray_constants, services
    from ray.scripts import scripts

    services.get_node_ip_address = lambda address=None: HOST
    ray_constants.ENABLE_RAY_CLUSTER = True
    scripts.main()


if __name__ == "__main__":
    main()
