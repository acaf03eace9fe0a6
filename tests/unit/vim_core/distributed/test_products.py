"""Precision of products: flags of the process in scopes, one thread at a time; names of settings and of classes."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import torch

from components.contract.fingerprint import result_settings
from tests.support import gpu
from vim_core.config import SampleConfig, TradeoffConfig, TrainConfig
from vim_core.distributed import runtimes as seam
from vim_core.distributed.products import BF16, CUDA_TF32, HIGH, HIGHEST, products, strict
from vim_core.distributed.runtimes.base import CpuRuntime
from vim_core.distributed.runtimes.cuda import CudaRuntime

CUDA = torch.device("cuda")


def flags() -> tuple[bool, bool]:
    return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32


@dataclass
class Encoder:
    device: str

    @strict
    def look(self) -> tuple[tuple[bool, bool], torch.dtype]:
        return flags(), (torch.ones(2, 2) @ torch.ones(2, 2)).dtype


@pytest.fixture(autouse=True)
def _flags() -> Iterator[None]:
    before = flags()
    yield
    torch.backends.cudnn.benchmark = torch.backends.cudnn.deterministic = False
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


@pytest.mark.parametrize("level", CUDA_TF32)
def test_a_strict_method_inside_a_step_restores_the_steps_precision(level: str) -> None:
    before = flags()
    with products(CUDA, level):
        assert flags() == CUDA_TF32[level]
        assert Encoder("cuda:1").look()[0] == (False, False)
        assert flags() == CUDA_TF32[level]
    assert flags() == before


def test_a_strict_method_is_in_fp32_under_autocast() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert Encoder("cpu").look()[1] is torch.float32
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype is torch.bfloat16


def test_an_evaluation_beside_a_step_waits_for_its_end() -> None:
    seen = []
    thread = threading.Thread(target=lambda: seen.append(Encoder("cuda").look()[0]))
    with products(CUDA, HIGH):
        thread.start()
        thread.join(0.05)
        assert (seen, flags()) == ([], (True, True))
    thread.join()
    assert seen == [(False, False)]


@pytest.mark.parametrize(
    ("precision", "level", "stated"),
    [
        ("highest", HIGHEST, ("cuda-sm90x132-fp32", "fp32", "fp32")),
        ("fp32", HIGHEST, ("cuda-sm90x132-fp32", "fp32", "fp32")),
        ("high", HIGH, ("cuda-sm90x132-tf32", "fp32", "tf32")),
        ("tf32", HIGH, ("cuda-sm90x132-tf32", "fp32", "tf32")),
        ("bf16", BF16, ("cuda-sm90x132-bf16", "bf16", "fp32, convolutions tf32")),
        ("auto", BF16, ("cuda-sm90x132-bf16", "bf16", "fp32, convolutions tf32")),
    ],
)
def test_cuda_states_what_it_uses_and_is_strict_outside_steps(
    precision: str, level: str, stated: tuple[str, str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu.pretend(monkeypatch)
    runtime = seam.create("cuda", precision, threads=2)
    assert isinstance(runtime, CudaRuntime)
    assert flags() == (False, False)
    with runtime.product_precision():
        assert flags() == CUDA_TF32[level]
    numeric = runtime.numeric
    assert (numeric.family, numeric.dtype, numeric.products) == stated


def test_high_is_fp32_on_cpu() -> None:
    assert CpuRuntime("high", threads=1).numeric == CpuRuntime("highest", threads=1).numeric


@pytest.mark.parametrize("config", [TrainConfig, SampleConfig, TradeoffConfig])
def test_both_names_of_a_precision_are_one_setting(config: type[TrainConfig]) -> None:
    assert result_settings(config(precision="highest")) == result_settings(config(precision="fp32"))
    assert config(precision="highest").precision == "fp32"
    assert TrainConfig(precision="tf32").precision == "high"


@pytest.mark.parametrize("deterministic", [True, False])
def test_the_fastest_kernels_are_another_class(deterministic: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu.pretend(monkeypatch)
    asked: list[bool] = []
    monkeypatch.setattr(torch, "use_deterministic_algorithms", lambda on, warn_only: asked.append(on))
    runtime = seam.create("cuda", "bf16", 1, deterministic=deterministic)
    assert (torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark) == (deterministic, not deterministic)
    assert asked == [deterministic]
    assert runtime.numeric.family == "cuda-sm90x132-bf16" + ("" if deterministic else "-nondeterministic")
    assert seam.create("cpu", "bf16", 1, deterministic=deterministic).numeric.family == "cpu-bf16-t1"
