"""The accelerator seam on CPU: numeric class, seeds, threads, refusals."""

from __future__ import annotations

from dataclasses import asdict
from types import SimpleNamespace

import pytest
import torch

from vim_core.distributed import runtimes as seam
from vim_core.distributed.runtimes.base import CpuRuntime
from vim_core.distributed.runtimes.cuda import CudaRuntime
from vim_core.errors import ConfigError


def test_numeric_class_names_what_changes_bits() -> None:
    runtime = seam.create("cpu", "bf16", threads=1, rank=1, world=2)
    assert runtime.numeric.name == "cpu-bf16-t1-w2"
    stated = {"device": "cpu", "dtype": "bf16", "threads": 1, "world": 2, "compiled": False, "products": "fp32"}
    assert asdict(runtime.numeric) == {**stated, "hardware": "", "deterministic": True}
    runtime.compiled = True
    assert runtime.numeric.name == "cpu-bf16-t1-w2-compiled"
    assert torch.get_num_threads() == 1


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_autocast_uses_the_chosen_dtype(precision: str, dtype: torch.dtype) -> None:
    runtime = CpuRuntime(precision, threads=1)
    with runtime.autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype is dtype


def test_auto_precision_follows_the_processor() -> None:
    runtime = CpuRuntime("auto", threads=1)
    assert runtime.dtype is (torch.bfloat16 if runtime.has_bf16() else torch.float32)


def test_noise_is_keyed_by_seed_step_and_rank() -> None:
    def noise(seed: int, step: int, rank: int) -> tuple[float, ...]:
        CpuRuntime("fp32", threads=1, rank=rank, world=4).seed_step(seed, step)
        return tuple(torch.rand(3).tolist())

    first = noise(1, 2, 3)
    assert noise(1, 2, 3) == first
    others = [noise(1, 2, 2), noise(1, 3, 3), noise(2, 2, 3), noise(2, 1, 3)]
    assert len({first, *others}) == 5


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_cuda_without_a_gpu_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"run\.device='cuda': torch sees no GPU"):
        seam.create("cuda", "auto", 1)
    assert seam.create("auto", "fp32", 1).kind == "cpu"


def test_a_tensor_on_the_host_is_contiguous_and_needs_no_gradient() -> None:
    weight = torch.nn.Linear(2, 3).weight
    copy = CpuRuntime("fp32", threads=1).to_host(weight.T)
    assert copy.is_contiguous()
    assert not copy.requires_grad
    assert torch.equal(copy, weight.T)


def test_xla_without_its_library_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    missing: dict[str, object] = {"torch_xla": None, "torch_tpu": None}
    monkeypatch.setattr("importlib.util.find_spec", lambda name: missing[name])
    with pytest.raises(ConfigError, match=r"run\.device='xla': torch_xla is not installed here"):
        seam.create("xla", "fp32", 1)
    missing |= {"torch_xla": object(), "torch_tpu": object()}
    with pytest.raises(ConfigError, match="both claim the chips; remove torch_tpu"):
        seam.create("xla", "fp32", 1)


class _Stream:
    """A stream of CUDA that writes down what is asked of it."""

    def __init__(self, log: list[str], name: str) -> None:
        self.log, self.name, self.events = log, name, 0

    def __call__(self, device: object = None) -> _Stream:
        return self

    def __enter__(self) -> None:
        self.log.append(f"on {self.name}")

    def __exit__(self, *error: object) -> None:
        self.log.append("off")

    def record_event(self) -> str:
        self.events += 1
        return f"copy {self.events - 1}"

    def wait_event(self, event: str) -> None:
        self.log.append(f"{self.name} waits for {event}")


def test_the_next_batch_is_copied_beside_a_step_and_its_memory_outlives_it(monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[str] = []
    copies, steps = _Stream(log, "copies"), _Stream(log, "steps")
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: copies)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: steps)
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda self, stream: log.append(f"kept for {stream.name}"))
    runtime = object.__new__(CudaRuntime)
    runtime.device = torch.device("cpu")
    pixels = [torch.full((2, 3), value, dtype=torch.uint8) for value in (0, 255, 51)]
    for index, batch in enumerate(runtime.to_device_ahead({"images": each} for each in pixels)):
        assert torch.equal(batch["images"], pixels[index].float() / 255)
        log.append(f"step {index}")
    assert [line for line in log if line.startswith(("on", "step "))] == ["on copies"] * 2 + [
        "step 0",
        "on copies",
        "step 1",
        "step 2",
    ]
    for index in range(3):
        before = log[: log.index(f"step {index}")]
        assert before[-2:] == [f"steps waits for copy {index}", "kept for steps"]
    assert CudaRuntime.pins_memory


@pytest.mark.parametrize(("used", "fits"), [(40, True), (70, False)])
def test_pictures_are_drawn_beside_a_training_where_memory_is_left(
    monkeypatch: pytest.MonkeyPatch, used: int, fits: bool
) -> None:
    """8 GB of weights, thrice, on a pretended GPU of 80 GB."""
    runtime = object.__new__(CudaRuntime)
    runtime.device = torch.device("cuda", 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=80e9))
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda device: used * 1e9)
    assert runtime.draws_beside(int(8e9)) is fits
    assert not CpuRuntime("fp32", 1).draws_beside(1)
