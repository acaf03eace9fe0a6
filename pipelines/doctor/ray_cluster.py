"""A Ray cluster by its dashboard's address: response, token, versions, nodes, room for workers, TPU slices."""

from __future__ import annotations

import shlex
import socket
import time
import uuid
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

from components.contract.commands import command
from components.engines import topology
from pipelines.doctor.checks import NoAnswer, Response, Result, Target, fail, ok, request, warn
from pipelines.jobs.profile import Cluster
from vim_core.config import TrainConfig
from vim_core.errors import ConfigError

JOB_TIMEOUT_S = 60.0
NODES = "/api/v0/nodes?limit=10000"
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


@dataclass(frozen=True)
class Node:
    """A living node: address, resources and labels as Ray reports them."""

    address: str
    resources: dict[str, float] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)


def check_cluster(target: Target) -> list[Result]:
    """Address and token; where both work, also versions, nodes, resources, topologies and, if allowed, a small job."""
    assert target.cluster is not None
    cluster = target.cluster
    if not cluster.address:
        advice = f"`{command('cluster', 'up')}` starts one" if cluster.is_local else "give `address` in the profile"
        return [fail("cluster", f"{cluster.name}: no address", advice)]
    try:
        results, headers = _authenticate(cluster)
        if headers is None:
            return results
        nodes = _living_nodes(request(cluster.address, NODES, headers))
        here = metadata.version("ray")
        there = str(request(cluster.address, "/api/version", headers).json().get("ray_version"))
        version = ok("Ray", f"{here} on both sides")
        if here != there:
            advice = "install the same version on both sides"
            version = fail("Ray", f"{there} on the cluster, {here} here", advice)
        cpus, gpus, chips = (sum(node.resources.get(kind, 0) for node in nodes) for kind in ("CPU", "GPU", "TPU"))
        more = "".join(f", {count:.0f} {name}" for name, count in (("GPUs", gpus), ("TPU chips", chips)) if count)
        alive = ok("nodes", f"{len(nodes)} alive with {cpus:.0f} CPUs{more}")
        if not nodes:
            alive = fail("nodes", "none is alive", "look at the cluster's own logs")
        results += [version, alive, *_check_resources(target, nodes)]
        results += _check_slices(target, nodes)
        return [*results, _try_job(cluster, headers)] if target.try_job else results
    except NoAnswer as error:
        start = f"`{command('cluster', 'up')}`" if cluster.is_local else "start the cluster, or forward its port 8265"
        text = f"{cluster.name}: no answer at {cluster.address} ({error})"
        return [fail("cluster", text, f"{start}, or correct `address`")]


def check_address(target: Target) -> list[Result]:
    """Check that a server listens at `run.ray_address`, for runs that join a cluster from here."""
    address = target.run.ray_address
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        return [ok("run.ray_address", f"{address!r} is looked up where the run is")]
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except OSError as error:
        advice = "start the cluster, correct the address, or leave it empty for a private one on this machine"
        return [fail("run.ray_address", f"{address}: nothing listens there ({error})", advice)]
    return [ok("run.ray_address", f"{address} is listened on")]


def _living_nodes(response: Response) -> list[Node]:
    """The nodes in state ALIVE of the state API's response. Raises `NoAnswer` for another response."""
    try:
        rows = response.json()["data"]["result"]["result"]
    except (TypeError, KeyError):
        raise NoAnswer(f"the list of nodes cannot be read (status {response.status})") from None
    return [
        Node(str(row.get("node_ip", "")), row.get("resources_total") or {}, row.get("labels") or {})
        for row in rows if row.get("state") == "ALIVE"
    ]  # fmt: skip


def _authenticate(cluster: Cluster) -> tuple[list[Result], dict[str, str] | None]:
    """Results for address and token, and the headers of further requests; None if the cluster refuses them."""
    bare = request(cluster.address, "/api/version")
    if bare.status == 200 and bare.json() is not None and "ray_version" in bare.json():
        text = f"{cluster.name}: {cluster.address} answers without a token"
        advice = "anyone who reaches it can run programs there: start it with RAY_AUTH_MODE=token"
        return [warn("cluster", text, advice)], {}
    if bare.status != 401:
        advice = "correct `address`: the dashboard's, such as http://head:8265"
        return [fail("cluster", f"{cluster.address}: no Ray server answers there (status {bare.status})", advice)], None
    if not cluster.token_file:
        text = f"{cluster.address} wants a token, and the profile {cluster.name} names none"
        return [fail("token", text, "set `token_file` to a file with it, such as ~/.ray/auth_token")], None
    path = Path(cluster.token_file).expanduser()
    try:
        token = path.read_text().strip()
    except OSError as error:
        advice = "write the cluster's token there (`ray get-auth-token` on its head), readable by you alone"
        text = f"{cluster.address} wants a token, and {path} cannot be read: {error.strerror}"
        return [fail("token", text, advice)], None
    if not token:
        return [fail("token", f"{path} is empty", "write the cluster's token there")], None
    headers = {"Authorization": f"Bearer {token}"}
    if request(cluster.address, "/api/version", headers).status != 200:
        advice = "put the token of this cluster there (`ray get-auth-token` on its head)"
        return [fail("token", f"{cluster.token_file} holds a token that {cluster.address} refuses", advice)], None
    accepted = ok("token", f"{path} is accepted")
    if path.stat().st_mode & 0o077:
        accepted = warn("token", f"{path} is accepted, but other users can read it", f"`chmod 600 {path}`")
    return [ok("cluster", f"{cluster.name}: {cluster.address} answers"), accepted], headers


def _check_resources(target: Target, nodes: list[Node]) -> list[Result]:
    """Check that the workers of each training fit at once; those of TPU slices are checked with their topology."""
    results = []
    for name in target.config.components:
        run = target.run_settings(name)
        if isinstance(getattr(target.config, name), TrainConfig) and not run.topology:
            # what a training worker asks Ray for; threads that are not set count as one
            needed = {"CPU": float(run.threads or 1), **({"GPU": 1.0} if run.device == "cuda" else {})}
            fitting = sum(
                min(int(node.resources.get(kind, 0) // count) for kind, count in needed.items()) for node in nodes
            )
            if fitting < run.workers:
                each = " and ".join(f"{count:g} {kind}" for kind, count in needed.items())
                text = f"{name} wants {run.workers} workers with {each} each, and {fitting} fit"
                advice = "add nodes, or lower run.workers or run.threads in the cluster's profile"
                results.append(fail("resources", text, advice))
    return results or [ok("resources", "the workers of every training fit")]


def _try_job(cluster: Cluster, headers: dict[str, str]) -> Result:
    """Start a job that imports VIM with the cluster's Python, and wait for it."""
    job_id = f"vim-doctor-{uuid.uuid4().hex[:8]}"
    entrypoint = shlex.join([cluster.python, "-c", "import pipelines.cli.main"])
    sent = request(cluster.address, "/api/jobs/", headers, {"entrypoint": entrypoint, "submission_id": job_id})
    if sent.status != 200:
        text = f"{cluster.address} takes no job: {sent.status} {sent.text[:200]}"
        return fail("job", text, "look at the head's log")
    deadline = time.monotonic() + JOB_TIMEOUT_S - 5
    while time.monotonic() < deadline:
        state = request(cluster.address, f"/api/jobs/{job_id}", headers).json() or {}
        if state.get("status") in ("SUCCEEDED", "FAILED", "STOPPED"):
            break
        time.sleep(0.5)
    else:
        request(cluster.address, f"/api/jobs/{job_id}/stop", headers, method="POST")
        return warn("job", f"a small job did not end within {JOB_TIMEOUT_S - 5:.0f} s", "the cluster may be full")
    if state["status"] == "SUCCEEDED":
        request(cluster.address, f"/api/jobs/{job_id}", headers, method="DELETE")
        return ok("job", f"{cluster.python} on the cluster imports VIM")
    message = " ".join(str(state.get("message", "")).split())[-300:]
    text = f"{cluster.python} on the cluster does not import VIM: {message}"
    return fail("job", text, "set `python`, or install VIM there")


def _check_slices(target: Target, nodes: Sequence[Node]) -> list[Result]:
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
    results, available = _check_labels(tpus), _count_slices(tpus)
    have = ", ".join(f"{count} x {name}" for name, count in sorted(available.items())) or "no whole slice"
    for (shape, wanted), components in requested.items():
        names, slice_ = ", ".join(components), topology.parse(shape)
        if available.get(shape, 0) >= wanted:
            results.append(ok("topology", f"{names}: {available[shape]} x {shape} ({slice_.pod_type}) is there"))
            continue
        wish = f"{wanted} x {shape} ({slice_.pod_type}, {slice_.hosts} hosts)"
        advice = f"make a node pool of {shape}, or set run.topology to what is there"
        advice = f"{advice}; {WEBHOOK}" if not available and tpus else advice
        results.append(fail("topology", f"{names}: wants {wish}, and the cluster has {have}", advice))
    return [*results, *invalid]


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


def _count_slices(tpus: Sequence[Node]) -> dict[str, int]:
    """The number of whole slices of each topology: all its hosts, numbered without a gap, one of them the head."""
    hosts: dict[tuple[str, str], list[Node]] = defaultdict(list)
    for node in tpus:
        hosts[node.labels.get(NAME, ""), node.labels.get(TOPOLOGY, "")].append(node)
    counts: dict[str, int] = defaultdict(int)
    for (name, shape), members in hosts.items():
        try:
            expected = topology.parse(shape)
        except ConfigError:
            continue
        numbers = sorted(node.labels.get(WORKER, "") for node in members)
        has_head = any(node.resources.get(f"TPU-{expected.pod_type}-head") for node in members)
        if name and numbers == sorted(map(str, range(expected.hosts))) and has_head:
            counts[shape] += 1
    return dict(counts)
