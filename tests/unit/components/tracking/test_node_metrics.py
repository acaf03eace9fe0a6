"""Load of the machines: read on every node, kept in the work folder, fetched once, in seconds since the first."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from components.tracking import node_metrics
from components.tracking.link import ServerAway
from components.tracking.node_metrics import Collector, Sampler, chunk_writer, queue_writer
from tests.unit.components.tracking.conftest import Server
from vim_core.errors import StorageError
from vim_core.storage import io
from vim_core.training import spool


class Chips:
    """libtpu's monitoring of a host with two chips."""

    figures = {"duty_cycle_pct": ["50.0", "70.0"], "hbm_capacity_usage": ["8", "24"], "hbm_capacity_total": ["32"] * 2}

    def get_metric(self, name: str) -> Any:
        if name not in self.figures:
            raise RuntimeError(f"unknown metric {name}")
        return SimpleNamespace(data=lambda: self.figures[name])


def test_a_host_says_how_busy_it_is() -> None:
    found = node_metrics.read_all([node_metrics.Host()], "node-3")
    assert set(found) == {
        f"system/node-3/{name}"
        for name in ("cpu_percent", "memory_percent", "disk_percent", "received_mib_per_s", "sent_mib_per_s")
    }
    assert 0 < found["system/node-3/memory_percent"] <= 100
    assert found["system/node-3/sent_mib_per_s"] >= 0


def test_chips_are_two_figures_a_host_and_missing_ones_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    assert node_metrics.read_tpus(Chips()) == {"tpu_duty_cycle_percent": 60.0, "tpu_memory_percent": 75.0}
    monkeypatch.setattr(Chips, "figures", {"duty_cycle_pct": [], "hbm_capacity_usage": ["8"]})
    assert node_metrics.read_tpus(Chips()) == {}


def test_gpus_are_read_as_nvidia_smi_prints_them(monkeypatch: pytest.MonkeyPatch) -> None:
    output = SimpleNamespace(stdout="90, 100, 400\n10, 300, 400\n")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: output)
    assert node_metrics.read_gpus() == {"gpu_percent": 50.0, "gpu_memory_percent": 75.0}


def test_a_reading_that_fails_costs_only_itself() -> None:
    def broken() -> dict[str, float]:
        raise RuntimeError("no driver")

    assert node_metrics.read_all([broken, lambda: {"cpu_percent": 1.0}], "node-0") == {"system/node-0/cpu_percent": 1.0}


def test_even_a_short_training_has_a_point_of_every_node(anywhere: str, tmp_path: Path) -> None:
    for rank in range(2):
        with node_metrics.sampled(anywhere, rank, local_rank=0, wanted=True):
            pass
    with node_metrics.sampled(anywhere, 2, local_rank=1, wanted=True):
        pass
    with node_metrics.sampled(anywhere, 3, local_rank=0, wanted=False):
        pass
    local = tmp_path / "driver" / "system.jsonl"
    Collector(anywhere, local).fetch()
    rows = spool.parse_rows(local.read_bytes())
    nodes = {name.split("/")[1] for row in rows for name in row["m"]}
    assert nodes == {"node-0", "node-1"}
    assert rows[0]["step"] == 0


def put(work: str, node: str, *rows: tuple[int, float]) -> None:
    chunk_writer(work, node)([{"t": at, "m": {f"system/{node}/cpu_percent": value}} for at, value in rows])


def steps(local: Path) -> list[tuple[int, str]]:
    return [(row["step"], next(iter(row["m"])).split("/")[1]) for row in spool.parse_rows(local.read_bytes())]


def test_chunks_are_fetched_once_in_order_of_time(tmp_path: Path) -> None:
    work, local = str(tmp_path / "work"), tmp_path / "driver" / "system.jsonl"
    collector = Collector(work, local)
    collector.fetch()
    assert steps(local) == []
    put(work, "node-1", (7_000, 1.0), (17_000, 1.0))
    put(work, "node-0", (5_000, 1.0))
    for _ in range(2):
        collector.fetch()
    assert steps(local) == [(0, "node-0"), (2, "node-1"), (12, "node-1")]
    put(work, "node-0", (35_000, 1.0))
    Collector(work, local).fetch()  # a driver that continues counts from the same moment
    assert steps(local)[-1] == (30, "node-0")


def test_rows_wait_for_a_store_that_does_not_answer() -> None:
    offered: list[int] = []
    answers = iter([StorageError("away"), None])

    def write(rows: node_metrics.Rows) -> None:
        offered.append(len(rows))
        fault = next(answers, None)
        if fault is not None:
            raise fault

    sampler = Sampler("node-0", write)
    sampler._sample(node_metrics.Host())
    sampler._offer()
    sampler._sample(node_metrics.Host())
    sampler._offer()
    sampler._offer()
    assert offered == [1, 2, 0]


def test_the_drivers_own_rows_follow_those_of_an_earlier_attempt() -> None:
    run, acts, name = Server(), list[Any](), "system/node-0/cpu_percent"
    run.metrics(40, {name: 1.0})
    write, now = queue_writer(run, acts.append), int(time.time() * 1000) + 5000
    write([{"t": now, "m": {name: 2.0}}, {"t": now, "m": {}}])
    (act,) = acts
    run.away = True
    with pytest.raises(ServerAway):
        act()
    run.away = False
    act()
    (_, (_, step, value)) = run.points
    assert step > 40
    assert value == 2.0


def test_a_torn_chunk_costs_its_last_line(tmp_path: Path) -> None:
    work = str(tmp_path / "work")
    whole = json.dumps({"t": 5_000, "m": {"system/node-0/cpu_percent": 1.0}})
    io.write_bytes(io.join(work, "nodes", "node-0-000000000005000.jsonl"), f"{whole}\n{whole[:9]}".encode())
    collector = Collector(work, tmp_path / "system.jsonl")
    collector.fetch()
    assert steps(tmp_path / "system.jsonl") == [(0, "node-0")]
