"""Checkpoints of other numeric classes: continued where they are further, or refused; never passed over in silence."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.support import gpu
from vim_core.checkpoint.checkpoints import Checkpoints
from vim_core.distributed import runtimes as seam
from vim_core.distributed.numeric import Numeric
from vim_core.distributed.runtimes.base import CpuRuntime
from vim_core.errors import ConfigError

H100 = Numeric("cuda", "bf16", 2, 1, hardware="sm90x132")
V4 = Numeric("xla-tpu", "bf16", 0, 8, products="bf16", hardware="v4")


class Of(CpuRuntime):
    """A CPU that says it were of another class."""

    def __init__(self, numeric: Numeric) -> None:
        super().__init__("fp32", 1)
        self._numeric = numeric

    @property
    def numeric(self) -> Numeric:
        return self._numeric


def checkpoints(work: Path, numeric: Numeric | str, rule: str = "any", notes: list[str] | None = None) -> Checkpoints:
    """Those of a training of this class, or of an old one whose folder had this name."""
    name, kind = (numeric, H100) if isinstance(numeric, str) else (numeric.family, numeric)
    said = [] if notes is None else notes
    return Checkpoints(str(work / name), {"f": "f"}, Of(kind), continue_from=rule, note=said.append)


def save(work: Path, numeric: Numeric | str, *steps: int) -> None:
    saving = checkpoints(work, numeric)
    for step in steps:
        saving.save(step, {"step": torch.tensor([float(step)])})
        assert saving.wait()
    saving.close()


CPU = Numeric("cpu", "fp32", 1, 1)
PAIRS = [
    (CPU, replace(CPU, threads=2)),
    (CPU, replace(CPU, compiled=True)),
    (H100, replace(H100, hardware="sm80x108")),
    (H100, CPU),
    (replace(H100, dtype="fp32"), replace(H100, dtype="fp32", products="tf32")),
    (V4, replace(V4, hardware="v5p")),
]


@pytest.mark.parametrize(("here", "there"), PAIRS, ids=lambda numeric: numeric.name)
def test_another_class_that_is_further_is_continued_and_said(tmp_path: Path, here: Numeric, there: Numeric) -> None:
    notes: list[str] = []
    save(tmp_path, here, 3)
    save(tmp_path, there, 3)
    found = checkpoints(tmp_path, here, notes=notes).latest()
    assert found is not None
    assert (found.step, found.folder, notes) == (3, str(tmp_path / here.family / "step-00000003"), [])
    save(tmp_path, there, 5)
    continued = checkpoints(tmp_path, here, notes=notes)
    found = continued.latest()
    assert found is not None
    assert (found.step, float(found.rows("step")), continued.resumed_class) == (5, 5.0, there.family)
    (note,) = notes
    assert f"continues at step 5 from a checkpoint of another numeric class: {there.family}, here it is" in note


@pytest.mark.parametrize(("here", "there"), PAIRS, ids=lambda numeric: numeric.name)
def test_same_refuses_to_begin_anew_and_else_takes_its_own(tmp_path: Path, here: Numeric, there: Numeric) -> None:
    assert checkpoints(tmp_path, here, "same").latest() is None
    save(tmp_path, there, 5)
    with pytest.raises(ConfigError, match=rf"continue_from='same': .*{there.family} .*step 5.*set .*continue_from=any"):
        checkpoints(tmp_path, here, "same").latest()
    save(tmp_path, here, 3)
    notes: list[str] = []
    found = checkpoints(tmp_path, here, "same", notes).latest()
    assert found is not None
    assert found.step == 3
    assert "step 5" in notes[0]
    assert "left out" in notes[0]


def test_folders_of_earlier_versions_are_of_the_class_if_nothing_else_differs(tmp_path: Path) -> None:
    save(tmp_path, "cuda-bf16-t64", 4)
    found = checkpoints(tmp_path, H100, "same").latest()
    assert found is not None
    assert found.step == 4
    assert [H100.includes(f"cuda-{rest}") for rest in ("bf16-t2", "fp32-t2", "bf16-t2-compiled", "bf16")] == [
        True, False, False, False,
    ]  # fmt: skip
    assert V4.includes("xla-tpu-bf16-t0")
    assert not CPU.includes("cpu-fp32-t2")


def test_a_damaged_checkpoint_of_another_class_leaves_this_ones_own(tmp_path: Path) -> None:
    save(tmp_path, CPU, 3)
    save(tmp_path, H100, 5)
    next((tmp_path / H100.family).rglob("*.safetensors")).write_bytes(b"")
    notes: list[str] = []
    found = checkpoints(tmp_path, CPU, notes=notes).latest()
    assert found is not None
    assert (found.step, notes) == (3, [])


@pytest.mark.parametrize("threads", [1, 64])
def test_threads_do_not_name_the_class_of_a_gpu(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu.pretend(monkeypatch)
    assert seam.create("cuda", "auto", threads).numeric.family == "cuda-sm90x132-bf16"


@pytest.mark.parametrize("text", ["cuda-sm90x132-bf16", "é", ""])
def test_workers_hear_rank_0s_text(text: str) -> None:
    class Second(Of):
        def gather_host(self, value: torch.Tensor) -> torch.Tensor:
            rank_0 = sent.pop(0)
            assert rank_0.shape == value.shape, "a collective"
            return torch.cat([rank_0, value])

    data = torch.tensor(list(text.encode()), dtype=torch.int64)
    for own in ("", "longer than that of the first worker"):
        sent = [torch.tensor([len(data)]), data]
        assert Second(CPU).share_text(own) == text
