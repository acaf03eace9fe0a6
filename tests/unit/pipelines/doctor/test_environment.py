"""What is said of this machine."""

from __future__ import annotations

import shutil
from collections import namedtuple
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from pipelines.doctor import environment
from pipelines.doctor.checks import FAIL, OK, WARN, Target
from pipelines.jobs.profile import Cluster
from vim_core.config import PipelineConfig, RunConfig

Usage = namedtuple("Usage", "total used free")


def target(cluster: Cluster | None = None, **run: Any) -> Target:
    return Target(PipelineConfig("fake", ["quantize"], RunConfig(**run)), cluster)


def versions(monkeypatch: pytest.MonkeyPatch, **known: str) -> None:
    real = metadata.version

    def version(name: str) -> str:
        if name not in known:
            return real(name)
        if not known[name]:
            raise metadata.PackageNotFoundError(name)
        return known[name]

    monkeypatch.setattr(metadata, "version", version)


def test_python_is_held_against_what_the_package_asks_for(monkeypatch: pytest.MonkeyPatch) -> None:
    assert environment.check_python(target())[0].status == OK
    monkeypatch.setattr(metadata, "metadata", lambda name: {"Requires-Python": ">=4"})
    (found,) = environment.check_python(target())
    assert found.status == FAIL
    assert "asks for >=4" in found.found


@pytest.mark.parametrize(
    ("names", "run", "expected"),
    [
        ([], {}, []),
        (["NVIDIA H100 PCIe"] * 2, {}, [(OK, "2 x NVIDIA H100 PCIe, 80 GB each, 756 TFLOP/s in bf16")]),
        (["Tesla T4"], {}, [(OK, "1 x Tesla T4, 16 GB each, 8 TFLOP/s in fp32")]),
        (["NVIDIA H200 MIG 1g.18gb"], {}, [(WARN, "1 x NVIDIA H200 MIG 1g.18gb: its peak rates are not known here")]),
        (
            ["NVIDIA L4"],
            {"device": "cuda", "accelerator": "H100"},
            [
                (OK, "1 x NVIDIA L4, 24 GB each, 121 TFLOP/s in bf16"),
                (WARN, "run.accelerator=H100, and here there are NVIDIA L4"),
            ],
        ),
    ],
)
def test_gpus_against_the_table_of_chips(
    monkeypatch: pytest.MonkeyPatch, names: list[str], run: dict[str, Any], expected: list[tuple[str, str]]
) -> None:
    monkeypatch.setattr("components.engines.devices.gpu_names", lambda: names)
    assert [(each.status, each.found) for each in environment.check_gpus(target(**run))] == expected


def test_a_missing_and_an_old_package_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "requires", lambda name: ["ray>=2.60", "torch>=2.9", 'gcsfs>=2025.3; extra == "gcp"'])
    versions(monkeypatch, **{"vim-image-modeling": "0.1.0", "ray": "2.40.0", "torch": "2.9.1", "gcsfs": ""})
    (found,) = environment.check_packages(target())
    assert (found.status, found.found) == (FAIL, "ray is 2.40.0, not >=2.60")
    (found,) = environment.check_packages(target(root="gs://bucket/vim", tracking_uri="off"))
    assert found.found == "ray is 2.40.0, not >=2.60; gcsfs is missing (>=2025.3)"
    assert "vim-image-modeling[gcp]" in found.advice


@pytest.mark.parametrize(
    ("xla", "tpu", "device", "status"),
    [("2.9", "0.2", "xla", FAIL), ("2.9", "0.2", "cpu", WARN), ("", "", "xla", FAIL), ("2.9", "", "xla", OK)],
)
def test_one_tpu_stack_is_wanted(monkeypatch: pytest.MonkeyPatch, xla: str, tpu: str, device: str, status: str) -> None:
    versions(monkeypatch, torch_xla=xla, torch_tpu=tpu)
    (found,) = environment.check_tpu_stacks(target(device=device))
    assert found.status == status


def test_no_tpu_stack_is_no_matter_without_a_tpu(monkeypatch: pytest.MonkeyPatch) -> None:
    versions(monkeypatch, torch_xla="", torch_tpu="")
    assert environment.check_tpu_stacks(target()) == []
    (found,) = environment.check_tpu_stacks(target(Cluster(name="pod", run={"device": "xla"})))
    assert found.status == OK


@pytest.mark.parametrize(("free", "status"), [(100, OK), (5, WARN), (0, FAIL)])
def test_room_on_the_disks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, free: int, status: str) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda place: Usage(2**40, 0, free * 2**30))
    found = environment.check_disks(target(root=str(tmp_path / "not" / "there")))
    assert [each.check for each in found] == ["disk of run.root", "disk of TMPDIR"]
    assert {each.status for each in found} == {status}


def test_threads_are_counted_over_workers_and_only_where_they_run_here() -> None:
    (found,) = environment.check_threads(target(workers=3, threads=1000))
    assert found.status == WARN
    assert "run.workers=3 with run.threads=1000" in found.found
    (found,) = environment.check_threads(target(Cluster(name="far"), workers=3, threads=1000))
    assert found.status == OK


def test_little_shared_memory_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda place: Usage(64 * 2**20, 0, 0))
    (found,) = environment.check_shared_memory(target())
    assert (found.status, "--shm-size" in found.advice) == (WARN, True)
