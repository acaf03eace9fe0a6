"""bf16 training keeps fp32 master weights: products in bf16, everything that lasts over steps in fp32."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tests.support.tiny import Make, state_of
from vim_core.config import DiscriminatorConfig, OptimConfig

PRODUCTS = {"mm", "addmm", "bmm", "baddbmm", "convolution", "convolution_backward"}


class Products(TorchDispatchMode):
    """Counts matrix products and convolutions by their operands' dtype."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: Counter[torch.dtype] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket.__name__ in PRODUCTS:
            self.found[next(a for a in args if isinstance(a, Tensor) and a.ndim > 1).dtype] += 1
        return func(*args, **kwargs or {})


@pytest.mark.parametrize(
    ("name", "optim"),
    [
        ("quantizer", OptimConfig()),
        ("prior", OptimConfig()),
        ("prior", OptimConfig(kind="factored", first_moment="int8")),
    ],
)
def test_products_in_bf16_and_state_in_fp32(makers: dict[str, Make], name: str, optim: OptimConfig) -> None:
    # Without R1, whose double backward pass stays in fp32.
    plain = {"discriminator": DiscriminatorConfig(channels=4, base=64, r1_gamma=0.0)} if name == "quantizer" else {}
    task = makers[name](precision="bf16", optim=optim, **plain)
    with Products() as products:
        for step in range(2):
            task.step(step, task.batch(step))
    assert products.found[torch.bfloat16] > 30
    # The codebook's lookup stays in fp32, one product a step, and on CPU the blur of the discriminator's skip: three
    # passes of one block, forward and backward.
    assert products.found[torch.float32] == (2 * (1 + 6) if name == "quantizer" else 0)
    for key, value in state_of(task).items():
        short = optim.first_moment == "int8" and key.startswith("optimizer/model") and key.endswith("/exp_avg")
        assert value.dtype == torch.float32 or (short and value.dtype == torch.int8), key
    for module in task.modules.values():
        assert all(p.grad is None or p.grad.dtype == torch.float32 for p in module.parameters())


def test_fp32_training_has_no_bf16_product(makers: dict[str, Make]) -> None:
    task = makers["prior"](precision="fp32")
    with Products() as products:
        task.step(0, task.batch(0))
    assert products.found.keys() == {torch.float32}


def test_updates_too_small_for_bf16_are_kept(makers: dict[str, Make]) -> None:
    """Thirty steps of a ten-thousandth move a weight of 1; in bf16 each would be rounded away."""
    optim = OptimConfig(lr=1e-4, decay="constant", weight_decay=0.0)
    task = makers["prior"](precision="bf16", optim=optim)
    norm = dict(task.modules["model"].named_parameters())["norm.weight"]
    for step in range(30):
        task.step(step % 6, task.batch(step % 6))
    moved = (norm.detach() - 1).abs()
    assert float(moved.max()) > 1e-3
    assert torch.equal(torch.tensor(1.0).bfloat16() - torch.tensor(1e-4).bfloat16(), torch.tensor(1.0).bfloat16())
