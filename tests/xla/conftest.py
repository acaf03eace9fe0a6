"""Four CPU devices, set before torch_xla is imported; each file here runs in a process of its own (make test-xla)."""

from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np
import pytest

DEVICES = 4

os.environ |= {
    "PJRT_DEVICE": "CPU",
    "CPU_NUM_DEVICES": str(DEVICES),
    # Compiling takes nearly all of the time here, and nothing is gained from fast machine code.
    "XLA_FLAGS": "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true",
    "TF_CPP_MIN_LOG_LEVEL": "2",
}

from tests.support import tiny  # noqa: E402
from vim_core.distributed import runtimes as seam  # noqa: E402
from vim_core.distributed.runtimes.base import Runtime  # noqa: E402
from vim_core.tasks.prior import PriorData  # noqa: E402
from vim_core.tasks.quantizer import QuantizerData  # noqa: E402


@pytest.fixture(scope="session")
def xla() -> Runtime:
    """Weights and batch split over all four devices, fp32."""
    return seam.create("xla", "fp32", threads=1)


@pytest.fixture(scope="session")
def cpu() -> Runtime:
    """Plain torch."""
    return seam.create("cpu", "fp32", threads=1)


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> QuantizerData:
    folder = tmp_path_factory.mktemp("images")
    train = tiny.image_table(folder / "train", 24)
    return QuantizerData([train], [tiny.image_table(folder / "test", 6, seed=1)])


@pytest.fixture(scope="session")
def codes(tmp_path_factory: pytest.TempPathFactory) -> PriorData:
    rng, folder = np.random.default_rng(0), tmp_path_factory.mktemp("codes")

    def table(split: str, count: int) -> str:
        rows, labels = rng.integers(0, 12, (count, 6)), rng.integers(0, 3, count)
        return tiny.code_table(folder / split, rows, labels, 12, split)

    return PriorData([table("train", 24)], [table("test", 6)], 3, "t")


@pytest.fixture
def compiled() -> Callable[[], int]:
    """Counts the programs that torch_xla has compiled so far in this process."""
    import torch_xla.debug.metrics as metrics

    return lambda: int((metrics.metric_data("CompileTime") or (0,))[0])


@pytest.fixture
def reads() -> Callable[[], int]:
    """Counts the times that the host has waited for a value of the devices so far in this process."""
    import torch_xla.debug.metrics as metrics

    return lambda: int((metrics.metric_data("TransferFromDeviceTime") or (0,))[0])


@pytest.fixture
def fallbacks() -> Callable[[], list[str]]:
    """Names the operations that torch_xla could not do and did on the CPU; reading a value is none."""
    import torch_xla.debug.metrics as metrics

    return lambda: sorted(
        {name for name in metrics.counter_names() if name.startswith("aten::")} - {"aten::_local_scalar_dense"}
    )
