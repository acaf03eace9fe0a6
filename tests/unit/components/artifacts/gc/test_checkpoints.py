"""Of the checkpoints of unfinished work the newest whole one stays."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch

from components.artifacts.gc.collect import collect
from components.artifacts.gc.plan import Rules
from tests.support.archived import key, own
from vim_core.checkpoint.shard_files import CheckpointIndex, step_folder, to_json_bytes, write_shard
from vim_core.checkpoint.state_dict import TensorShard
from vim_core.storage import io


def save(folder: str, step: int) -> None:
    """A checkpoint as a training writes it."""
    place = step_folder(folder, step)
    part = write_shard(place, "w-00000-of-00001", {"a": TensorShard(torch.full((3,), float(step)), (3,), (0, 3))})
    io.write_bytes(io.join(place, "index.json"), to_json_bytes(CheckpointIndex(step, {}, {}, [part])))


def steps(folder: Path) -> Sequence[str]:
    return sorted(path.name for path in folder.glob("step-*"))


def test_the_newest_whole_one_and_the_best_stay_per_numeric_class(anywhere: str) -> None:
    work = io.join(anywhere, ".work", "prior", key(1))
    for step in (10, 20, 30, 40):
        save(io.join(work, "cpu-float32"), step)
    save(io.join(work, "cuda-bfloat16"), 10)
    io.write_bytes(io.join(work, "cpu-float32", "best.json"), json.dumps({"step": 20}).encode())
    # The newest one is damaged: the one before it is what a training would go on from.
    io.write_bytes(io.join(work, "cpu-float32", "step-00000040", "w-00000-of-00001.safetensors"), b"cut")
    done = collect(anywhere, Rules(), delete=True)
    assert [each.what for each in done.removals] == ["cpu-float32/step-00000010", "cpu-float32/step-00000040"]
    assert done.totals()["checkpoint"] > 0
    left = {path.rsplit("/", 1)[0] for path in io.find_files(work) if path.endswith("index.json")}
    assert left == {"cpu-float32/step-00000020", "cpu-float32/step-00000030", "cuda-bfloat16/step-00000010"}
    assert collect(anywhere, Rules(), delete=True).removals == []


def test_more_stay_where_more_are_wanted(root: str) -> None:
    folder = Path(root, ".work", "prior", key(1), "cpu-float32")
    for step in (10, 20, 30):
        save(str(folder), step)
    collect(root, Rules(checkpoints=2), delete=True)
    assert steps(folder) == ["step-00000020", "step-00000030"]


def test_without_any_whole_one_and_with_an_owner_nothing_is_touched(root: str) -> None:
    damaged = Path(root, ".work", "prior", key(1), "cpu-float32")
    owned = Path(root, ".work", "prior", key(2), "cpu-float32")
    for folder in (damaged, owned):
        for step in (10, 20):
            save(str(folder), step)
    for path in damaged.glob("*/index.json"):
        path.write_text("{}")
    own(root, "prior", 2, [])
    assert collect(root, Rules(), delete=True).removals == []
    assert steps(damaged) == steps(owned) == ["step-00000010", "step-00000020"]
