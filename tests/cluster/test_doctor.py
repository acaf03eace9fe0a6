"""`vimctl doctor` at a real Ray head with a token and made-up TPU labels."""

from __future__ import annotations

import json
import secrets
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pipelines.doctor.checks import NoAnswer, request
from tests.support.common import free_port, running, started, vimctl

pytestmark = pytest.mark.cluster

LABELS = {
    "ray.io/tpu-slice-name": "slice-a",
    "ray.io/tpu-worker-id": "0",
    "ray.io/tpu-topology": "2x2x1",
    "ray.io/tpu-pod-type": "v4-8",
}
"""As on a host of a v4-8: what a test of `run.topology` needs, without a chip."""


@dataclass(frozen=True)
class Head:
    """A Ray head that runs here, and the file with its token."""

    address: str
    token: Path


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    """A head on ports of its own, with token authentication and resources of a TPU host."""
    folder = tmp_path_factory.mktemp("head")
    ray_folder = tempfile.mkdtemp(prefix="ray-")  # short: Ray's sockets lie below it, and their paths end at 107 bytes
    token = folder / "token"
    token.write_text(secrets.token_hex(32))
    token.chmod(0o600)
    port = free_port()
    arguments = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--disable-usage-stats"]
    arguments += ["--port", str(free_port()), "--dashboard-port", str(port), "--dashboard-host", "127.0.0.1"]
    arguments += ["--num-cpus", "2", "--object-store-memory", str(100 * 2**20), "--temp-dir", ray_folder]
    arguments += ["--node-ip-address", "127.0.0.1", "--min-worker-port", "0", "--max-worker-port", "0"]
    arguments += ["--dashboard-agent-listen-port", str(free_port()), "--dashboard-agent-grpc-port", str(free_port())]
    arguments += ["--ray-client-server-port", str(free_port()), "--resources", '{"TPU": 4, "TPU-v4-8-head": 1}']
    arguments += ["--labels", ",".join(f"{name}={value}" for name, value in LABELS.items())]
    with running(arguments, folder / "log", RAY_AUTH_MODE="token", RAY_AUTH_TOKEN_PATH=str(token)) as process:
        address = f"http://127.0.0.1:{port}"
        process.wait_for(lambda: listens(address, token.read_text()), 120)
        yield Head(address, token)
        # It ends its own processes in order, which takes less time than to end them all at once.
        process.process.terminate()
        process.process.wait(30)
    shutil.rmtree(ray_folder, ignore_errors=True)


def listens(address: str, token: str) -> bool:
    """True if the state API knows a living node."""
    try:
        answer = request(address, "/api/v0/nodes", {"Authorization": f"Bearer {token}"})
    except NoAnswer:
        return False
    return answer.status == 200 and "ALIVE" in answer.text


def doctor(folder: Path, profile: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    """Exit status and findings by check, of the command in a process of its own."""
    place = folder / "near.yaml"
    place.write_text(json.dumps({"root": str(folder / "root"), **profile}))
    words = ["doctor", "--preset", "smoke", "--cluster", str(place), "--json", "run.tracking_uri=off"]
    ended = vimctl(*words, root=folder / "root", timeout=120, check=False)
    assert ended.code in (0, 1), ended.err[-3000:]
    return ended.code, {each["check"]: each for each in json.loads(ended.out)}


def failed(found: dict[str, Any]) -> list[str]:
    return [check for check, each in found.items() if each["status"] == "FAIL"]


def test_a_cluster_that_is_well(head: Head, tmp_path: Path) -> None:
    place = {"device": "xla", "topology": "2x2x1"}
    profile = {"address": head.address, "token_file": str(head.token), "components": {"prior": place}}
    code, found = doctor(tmp_path, profile)
    assert (code, failed(found)) == (0, [])
    assert found["nodes"]["found"] == "1 alive with 2 CPUs, 4 TPU chips"
    assert "prior: 1 x 2x2x1 (v4-8) is there" in found["topology"]["found"]
    assert found["topology labels"]["status"] == "ok"


def test_a_missing_and_a_wrong_token_are_named(head: Head, tmp_path: Path) -> None:
    code, found = doctor(tmp_path, {"address": head.address})
    assert (code, failed(found)) == (1, ["token"])
    assert "wants a token" in found["token"]["found"]
    other = tmp_path / "other"
    other.write_text(secrets.token_hex(32))
    code, found = doctor(tmp_path, {"address": head.address, "token_file": str(other)})
    assert (code, failed(found)) == (1, ["token"])
    assert "refuses" in found["token"]["found"]


def test_a_wrong_topology_and_too_many_workers_are_named(head: Head, tmp_path: Path) -> None:
    places = {
        "quantize": {"device": "xla", "topology": "2x2x2", "workers": 2},
        "prior": {"workers": 3, "threads": 1},
    }
    code, found = doctor(tmp_path, {"address": head.address, "token_file": str(head.token), "components": places})
    assert (code, sorted(failed(found))) == (1, ["resources", "topology"])
    assert "quantize: wants 1 x 2x2x2 (v4-16, 2 hosts), and the cluster has 1 x 2x2x1" in found["topology"]["found"]
    assert "prior wants 3 workers" in found["resources"]["found"]


def test_the_clusters_python_imports_vim(head: Head, tmp_path: Path) -> None:
    profile = {"address": head.address, "token_file": str(head.token), "python": sys.executable}
    place = tmp_path / "near.yaml"
    place.write_text(json.dumps({**profile, "root": str(tmp_path / "root")}))
    words = ["doctor", "--preset", "smoke", "--cluster", str(place), "--try-job", "run.tracking_uri=off"]
    with started(tmp_path / "root", *words) as process:
        assert process.process.wait(120) == 0, process.text
        assert "on the cluster imports VIM" in process.text
