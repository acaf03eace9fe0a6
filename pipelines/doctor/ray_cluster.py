"""A Ray cluster by its dashboard's address: answer, token, versions, nodes, room for the preset's workers."""

from __future__ import annotations

import shlex
import socket
import time
import uuid
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

from pipelines.doctor import topology
from pipelines.doctor.asking import Answer, Silent, ask
from pipelines.doctor.findings import Finding, Subject, fail, ok, warn
from pipelines.jobs.profile import Cluster
from vim_core.config import RunConfig, TrainConfig

TRY_S = 60.0
NODES = "/api/v0/nodes?limit=10000"


@dataclass(frozen=True)
class Node:
    """A living node: address, resources and labels as Ray tells them."""

    address: str
    resources: dict[str, float] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)


def cluster(subject: Subject) -> list[Finding]:
    """All that can be told of the profile's cluster; without an answer or a token the rest cannot be."""
    assert subject.cluster is not None
    own = subject.cluster
    if not own.address:
        start = "`vimctl cluster up` starts one" if own.here else "give `address` in the profile"
        return [fail("cluster", f"{own.name}: no address", start)]
    try:
        found, headers = _entered(own)
        if headers is None:
            return found
        nodes = living(ask(own.address, NODES, headers))
        found += [_version(own, headers), *_nodes(own, nodes), *_room(subject, nodes), *topology.slices(subject, nodes)]
        return [*found, _tried(own, headers)] if subject.try_job else found
    except Silent as error:
        return [_silent(own, str(error))]


def address(subject: Subject) -> list[Finding]:
    """Whether something listens at `run.ray_address`, for runs that join a cluster from here."""
    given = subject.run.ray_address
    host, _, port = given.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        return [ok("run.ray_address", f"{given!r} is looked up where the run is")]
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except OSError as error:
        advice = "start the cluster, correct the address, or leave it empty for a private one on this machine"
        return [fail("run.ray_address", f"{given}: nothing listens there ({error})", advice)]
    return [ok("run.ray_address", f"{given} is listened on")]


def living(answer: Answer) -> list[Node]:
    """The nodes that are alive, of what the state API says. Raises `Silent` where that is not understood."""
    said = answer.json()
    try:
        rows = said["data"]["result"]["result"]
    except (TypeError, KeyError):
        raise Silent(f"the list of nodes cannot be read (status {answer.status})") from None
    return [
        Node(str(row.get("node_ip", "")), row.get("resources_total") or {}, row.get("labels") or {})
        for row in rows if row.get("state") == "ALIVE"
    ]  # fmt: skip


def _entered(own: Cluster) -> tuple[list[Finding], dict[str, str] | None]:
    """Findings on address and token, and the headers to go on with; None where there is no way in."""
    bare = ask(own.address, "/api/version")
    if bare.status == 200 and bare.json() is not None and "ray_version" in bare.json():
        return [_open(own)], {}
    if bare.status != 401:
        advice = "correct `address`: the dashboard's, such as http://head:8265"
        return [fail("cluster", f"{own.address}: no Ray answers there (status {bare.status})", advice)], None
    token = _token(own)
    if isinstance(token, Finding):
        return [token], None
    headers = {"Authorization": f"Bearer {token}"}
    if ask(own.address, "/api/version", headers).status != 200:
        advice = "put the token of this cluster there (`ray get-auth-token` on its head)"
        return [fail("token", f"{own.token_file} holds a token that {own.address} refuses", advice)], None
    return [ok("cluster", f"{own.name}: {own.address} answers"), _guarded(own)], headers


def _open(own: Cluster) -> Finding:
    text = f"{own.name}: {own.address} answers, and asks nobody for a token"
    return warn("cluster", text, "who reaches it can run programs there: start it with RAY_AUTH_MODE=token")


def _token(own: Cluster) -> str | Finding:
    if not own.token_file:
        text = f"{own.address} wants a token, and the profile {own.name} names none"
        return fail("token", text, "set `token_file` to a file with it, such as ~/.ray/auth_token")
    path = Path(own.token_file).expanduser()
    try:
        found = path.read_text().strip()
    except OSError as error:
        advice = "write the cluster's token there (`ray get-auth-token` on its head), readable by you alone"
        return fail("token", f"{own.address} wants a token, and {path} cannot be read: {error.strerror}", advice)
    return found or fail("token", f"{path} is empty", "write the cluster's token there")


def _guarded(own: Cluster) -> Finding:
    path = Path(own.token_file).expanduser()
    if path.stat().st_mode & 0o077:
        return warn("token", f"{path} is accepted, and others may read it", f"`chmod 600 {path}`")
    return ok("token", f"{path} is accepted")


def _silent(own: Cluster, why: str) -> Finding:
    start = "`vimctl cluster up`" if own.here else "start the cluster, or forward its port 8265"
    return fail("cluster", f"{own.name}: nobody answers at {own.address} ({why})", f"{start}, or correct `address`")


def _version(own: Cluster, headers: dict[str, str]) -> Finding:
    said = ask(own.address, "/api/version", headers).json()
    here, there = metadata.version("ray"), str(said.get("ray_version"))
    if here != there:
        return fail("Ray", f"{there} on the cluster, {here} here", "install the same version on both sides")
    return ok("Ray", f"{here} on both sides")


def _nodes(own: Cluster, nodes: list[Node]) -> list[Finding]:
    if not nodes:
        return [fail("nodes", "none is alive", "look at the cluster's own logs")]
    cpus = sum(node.resources.get("CPU", 0) for node in nodes)
    chips = sum(node.resources.get("TPU", 0) for node in nodes)
    gpus = sum(node.resources.get("GPU", 0) for node in nodes)
    more = "".join(f", {count:.0f} {name}" for name, count in (("GPUs", gpus), ("TPU chips", chips)) if count)
    return [ok("nodes", f"{len(nodes)} alive with {cpus:.0f} CPUs{more}")]


def _room(subject: Subject, nodes: list[Node]) -> list[Finding]:
    """Whether the workers of each training fit at once; those of TPU slices are looked at with their topology."""
    found = []
    for name in subject.config.components:
        run = subject.place(name)
        if isinstance(getattr(subject.config, name), TrainConfig) and not run.topology:
            asked = needs(run)
            fits = sum(_fits(node, asked) for node in nodes)
            if fits < run.workers:
                each = " and ".join(f"{count:g} {kind}" for kind, count in asked.items())
                text = f"{name} wants {run.workers} workers with {each} each, and {fits} fit"
                advice = "add nodes, or lower run.workers or run.threads in the cluster's profile"
                found.append(fail("resources", text, advice))
    return found or [ok("resources", "the workers of every training fit")]


def needs(run: RunConfig) -> dict[str, float]:
    """What one training worker asks Ray for; threads that are not given count as one."""
    gpu = {"GPU": 1.0} if run.device == "cuda" else {}
    return {"CPU": float(run.threads or 1), **gpu}


def _fits(node: Node, asked: dict[str, float]) -> int:
    return min(int(node.resources.get(kind, 0) // count) for kind, count in asked.items())


def _tried(own: Cluster, headers: dict[str, str]) -> Finding:
    """Start a job that imports VIM by the cluster's Python, and wait for it."""
    name = f"vim-doctor-{uuid.uuid4().hex[:8]}"
    line = shlex.join([own.python, "-c", "import pipelines.cli.main"])
    began = ask(own.address, "/api/jobs/", headers, {"entrypoint": line, "submission_id": name})
    if began.status != 200:
        return fail("job", f"{own.address} takes no job: {began.status} {began.text[:200]}", "look at the head's log")
    deadline = time.monotonic() + TRY_S - 5
    while time.monotonic() < deadline:
        state = ask(own.address, f"/api/jobs/{name}", headers).json() or {}
        if state.get("status") in ("SUCCEEDED", "FAILED", "STOPPED"):
            break
        time.sleep(0.5)
    else:
        ask(own.address, f"/api/jobs/{name}/stop", headers, method="POST")
        return warn("job", f"a small job did not end within {TRY_S - 5:.0f} s", "the cluster may be full")
    if state["status"] == "SUCCEEDED":
        ask(own.address, f"/api/jobs/{name}", headers, method="DELETE")
        return ok("job", f"{own.python} on the cluster imports VIM")
    last = " ".join(str(state.get("message", "")).split())[-300:]
    return fail("job", f"{own.python} on the cluster does not import VIM: {last}", "set `python`, or install VIM there")
