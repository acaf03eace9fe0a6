"""One worker, two and four: the same losses, whole or sharded; checkpoints that any number of workers continues."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.support import workers
from tests.support.workers import FOUR, STAGES, STEPS, curve, run, runtime_of, task
from vim_core.checkpoint.checkpoints import Checkpoints


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything that one worker and then two have done."""
    folder = tmp_path_factory.mktemp("workers")
    workers.tables(folder)
    for name in STAGES:
        run(task(name, folder, runtime_of()), folder / f"{name}-one")
    run(task("prior", folder, runtime_of(precision="bf16")), folder / "prior-one-bf16")
    for name in STAGES:
        left = run(task(name, folder, runtime_of()), folder / f"{name}-one-left", stop=4)
        for parallel in ("data", "fsdp"):
            shutil.copytree(left, folder / f"{name}-one-to-{parallel}")
    workers.spawn(workers.everything, 2, folder)
    for name in STAGES:
        for parallel in ("data", "fsdp"):
            run(task(name, folder, runtime_of()), folder / f"{name}-{parallel}-left")
    return folder


def assert_same_curve(found: dict[str, list[float]], expected: dict[str, list[float]]) -> None:
    assert found.keys() == expected.keys()
    for name in expected:
        # Gradients of a sum differ by its order more than the sum itself does.
        rel = 1e-4 if name == "gradient_norm" else 1e-5
        assert found[name] == pytest.approx(expected[name], rel=rel, abs=1e-7), name


@pytest.mark.parametrize("name", STAGES)
@pytest.mark.parametrize("parallel", ["data", "fsdp"])
def test_two_workers_lose_what_one_loses(folder: Path, name: str, parallel: str) -> None:
    one, two = curve(folder / f"{name}-one"), curve(folder / f"{name}-{parallel}")
    assert len(one["loss"]) == STEPS
    assert len(set(one["loss"])) == STEPS, "the loss changes from step to step"
    assert_same_curve(two, one)
    if name == "quantizer":
        assert sum(one["restarted"]) > 0, "restarts were among the steps"
        assert min(one["discriminator"]) > 0
    figures = [json.loads((folder / f"{name}-{kind}" / "figures.json").read_text()) for kind in ("one", parallel)]
    assert figures[1] == pytest.approx(figures[0], rel=1e-4)


def test_sharded_in_bf16_follows_one_worker_in_bf16(folder: Path) -> None:
    one, two = curve(folder / "prior-one-bf16"), curve(folder / "prior-fsdp-bf16")
    assert one["loss"] != curve(folder / "prior-one")["loss"]
    assert two["loss"] == pytest.approx(one["loss"], rel=2e-3)


@pytest.fixture(scope="module")
def four(folder: Path) -> Path:
    """Folder of the trainings that four workers share."""
    workers.spawn(workers.four, 4, folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(("name", "parallel"), FOUR)
def test_four_workers_lose_what_one_loses(four: Path, name: str, parallel: str) -> None:
    """Also after the state of four quarters went on as two copies of two halves, and with rows that do not divide."""
    assert_same_curve(curve(four / f"{name}-four-{parallel.replace('/', '')}"), curve(four / f"{name}-one"))


@pytest.mark.parametrize("name", STAGES)
@pytest.mark.parametrize("parallel", ["data", "fsdp"])
def test_a_resumed_pair_ends_with_the_same_bits(folder: Path, name: str, parallel: str) -> None:
    whole, resumed = folder / f"{name}-{parallel}", folder / f"{name}-{parallel}-resumed"
    assert curve(resumed) == curve(whole)
    assert (resumed / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()


@pytest.mark.parametrize("name", STAGES)
@pytest.mark.parametrize("how", ["one-to-data", "one-to-fsdp", "data-left", "fsdp-left", "fsdp-to-data"])
def test_another_number_of_workers_continues(folder: Path, name: str, how: str) -> None:
    continued = folder / f"{name}-{how}"
    assert_same_curve(curve(continued), curve(folder / f"{name}-one"))


@pytest.mark.parametrize("name", STAGES)
def test_each_worker_wrote_its_own_shard_and_all_hold_the_state(folder: Path, name: str) -> None:
    states: dict[str, dict[str, torch.Tensor]] = {}
    for kind in ("one", "data", "fsdp"):
        saved = Checkpoints(str(folder / f"{name}-{kind}" / "checkpoints"), {"of": "test"}, runtime_of()).latest()
        assert saved is not None
        assert saved.step == STEPS
        files = [load_file(Path(saved.folder) / part.file) for part in saved.index.parts]
        assert len(files) == (1 if kind == "one" else 2)
        sizes = [sum(value.numel() for value in file.values()) for file in files]
        assert min(sizes) > 0.4 * max(sizes)
        states[kind] = {key: saved.rows(key) for key in sorted(saved.names())}
    shapes: list[Any] = [{key: value.shape for key, value in state.items()} for state in states.values()]
    assert shapes[0] == shapes[1] == shapes[2]
    exported = load_file(folder / f"{name}-fsdp" / "model.safetensors")
    for key, value in exported.items():
        assert torch.equal(states["fsdp"][f"module/ema/{key}"], value), key


def test_a_sharded_network_is_split(folder: Path) -> None:
    records = [json.loads((folder / f"shares-{rank}.json").read_text()) for rank in range(2)]
    for name, shape in records[0]["shapes"].items():
        here = [record["here"][name] for record in records]
        if len(shape) < 2:
            assert here[0] == here[1] == math.prod(shape)
            continue
        share = -(-shape[0] // 2) * math.prod(shape[1:])
        assert here == [share, math.prod(shape) - share], name


@pytest.mark.parametrize("parallel", ["data", "fsdp"])
def test_a_broken_loss_of_one_worker_changes_no_weight_of_any(folder: Path, parallel: str) -> None:
    for rank in range(2):
        assert json.loads((folder / f"skipping-{parallel}-{rank}.json").read_text()) == {"skipped": 1.0, "same": True}


def test_a_full_disk_of_one_worker_costs_one_checkpoint(folder: Path) -> None:
    records = [json.loads((folder / f"full-{rank}.json").read_text()) for rank in range(2)]
    for record in records:
        assert record["settled"] == [False, True]
        assert record["step"] == 4
        assert len(record["said"]) == 1
    assert "No space left on device" in records[1]["said"][0]
    assert "another worker" in records[0]["said"][0]
