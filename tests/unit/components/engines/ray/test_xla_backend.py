"""The Ray backend for torch_xla without Ray: the hosts' order, the workers' variables, refusals before launch."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from components.engines.ray import xla_backend
from components.engines.ray.xla_backend import TpuHost, XlaConfig, check_host_order, read_tpu_host, worker_environment
from vim_core.config import RunConfig
from vim_core.errors import ConfigError


def tpu_slice(hosts: int, name: str = "a") -> list[TpuHost]:
    names = ",".join(f"{name}-{host}" for host in range(hosts))
    return [TpuHost(str(host), names, name) for host in range(hosts)]


@pytest.mark.parametrize(("hosts", "slices"), [(1, 1), (4, 1), (4, 2), (1, 3)])
def test_hosts_in_the_order_of_their_numbers_pass(hosts: int, slices: int) -> None:
    check_host_order([host for number in range(slices) for host in tpu_slice(hosts, f"s{number}")], slices)
    check_host_order([TpuHost("0", "", "")], 1)


def test_hosts_that_are_no_slices_in_order_are_refused() -> None:
    hosts = tpu_slice(4)
    hosts[1], hosts[3] = hosts[3], hosts[1]
    with pytest.raises(ConfigError, match=r"workers 0 to 3 have TPU_WORKER_ID=\[0, 3, 2, 1\], not in the order"):
        check_host_order(hosts, 1)
    first, second = tpu_slice(2, "a"), tpu_slice(2, "b")
    with pytest.raises(ConfigError, match=r"workers 0 to 1 should be one slice but are of TPU_NAME='a'.*TPU_NAME='b'"):
        check_host_order([first[0], second[1], second[0], first[1]], 2)
    larger = [replace(host, hostnames="a-0,a-1,a-2") for host in first]
    with pytest.raises(ConfigError, match="TPU_WORKER_HOSTNAMES='a-0,a-1,a-2' does not name 2 hosts"):
        check_host_order(larger, 1)


@pytest.mark.parametrize(
    "broken", [{"worker_id": ""}, {"worker_id": "x"}, {"hostnames": ""}], ids=["missing", "no number", "no names"]
)
def test_missing_variables_are_named_with_the_webhook(broken: dict[str, str]) -> None:
    hosts = tpu_slice(2)
    hosts[1] = replace(hosts[1], **broken)
    with pytest.raises(ConfigError, match=r"worker 1: TPU_WORKER_ID=.* TPU_WORKER_HOSTNAMES=.*webhook"):
        check_host_order(hosts, 1)


def test_a_host_reads_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("WORKER_ID", "2"), ("WORKER_HOSTNAMES", "h0,h1,h2"), ("NAME", "slice")):
        monkeypatch.setenv(f"TPU_{name}", value)
    assert read_tpu_host() == TpuHost("2", "h0,h1,h2", "slice")


def test_cpu_workers_pretend_their_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    found = worker_environment(XlaConfig("CPU", devices=4), 0, 1, "10.0.0.2", 1234)
    assert found == {
        "PJRT_DEVICE": "CPU",
        "CPU_NUM_DEVICES": "4",
        "MASTER_ADDR": "10.0.0.2",
        "MASTER_PORT": "1234",
        "RANK": "0",
        "WORLD_SIZE": "1",
    }


def test_slices_get_their_numbers_over_stale_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    single = worker_environment(XlaConfig("TPU"), 3, 4, "10.0.0.2", 1)
    assert not [name for name in single if name.startswith("MEGASCALE") or name == "TPU_SKIP_MDS_QUERY"]
    config = XlaConfig("TPU", slices=2)
    found = [worker_environment(config, rank, 8, "10.0.0.2", 1) for rank in range(8)]
    assert [row["MEGASCALE_SLICE_ID"] for row in found] == list("00001111")
    assert {row["MEGASCALE_NUM_SLICES"] for row in found} == {"2"}
    assert {row["MEGASCALE_COORDINATOR_ADDRESS"] for row in found} == {"10.0.0.2"}
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    assert worker_environment(XlaConfig("TPU"), 0, 1, "10.0.0.2", 1)["TPU_SKIP_MDS_QUERY"] == "1"


def make_trainer(monkeypatch: pytest.MonkeyPatch, run: RunConfig, batch: int, **variables: str) -> Any:
    for name in ("PJRT_DEVICE", "CPU_NUM_DEVICES", "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAY_TRAIN_V2_ENABLED", "1")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    job = SimpleNamespace(config=SimpleNamespace(batch=batch))
    from ray.train import RunConfig as RayRun

    ctx: Any = SimpleNamespace(run=run)
    return xla_backend.xla_trainer(lambda arguments: None, {"job": job}, ctx, RayRun(name="x"), run.threads or 1)


def test_a_slice_is_asked_for_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunConfig(device="xla", topology="2x2x2", workers=4, threads=3, compile_cache="/cache")
    trainer = make_trainer(monkeypatch, run, 32)
    assert trainer.backend_config == XlaConfig("TPU", 1, "/cache", slices=2)
    assert trainer.scaling_config.resources_per_worker == {"CPU": 3, "TPU": 4}
    assert (trainer.scaling_config.num_workers, trainer.scaling_config.topology) == (4, "2x2x2")


def test_mistakes_are_found_before_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"run\.topology=''"):
        make_trainer(monkeypatch, RunConfig(device="xla"), 32)
    with pytest.raises(ConfigError, match="PJRT_DEVICE='NEURON'"):
        make_trainer(monkeypatch, RunConfig(device="xla"), 32, PJRT_DEVICE="NEURON")
    with pytest.raises(ConfigError, match="batch=6: not divisible by the 4 XLA devices"):
        make_trainer(monkeypatch, RunConfig(device="xla"), 6, PJRT_DEVICE="CPU", CPU_NUM_DEVICES="4")
