"""Precision of products on XLA: read when a program is compiled, so strict encoding is a program of its own."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from vim_core.distributed import runtimes as seam
from vim_core.distributed.products import HIGHEST, products

pytestmark = pytest.mark.xla


def precision_of(tensor: Tensor) -> str:
    """The precision of the last product in the program that would compute this tensor."""
    import torch_xla

    line = [line for line in torch_xla._XLAC._get_xla_tensors_hlo([tensor]).splitlines() if " dot(" in line][-1]
    return line.partition("operand_precision={")[2].partition(",")[0] or "default"


@pytest.mark.parametrize(("precision", "name"), [("highest", "highest"), ("high", "high"), ("bf16", "default")])
def test_strict_products_inside_a_step(precision: str, name: str) -> None:
    runtime = seam.create("xla", precision, threads=1)
    assert runtime.numeric.products == "fp32"  # of XLA's CPU, which has no choice
    x = runtime.to_device({"x": torch.rand(4, 4)})["x"]
    with runtime.autocast(), products(runtime.device, HIGHEST):
        assert precision_of((x + 1) @ x) == "highest"
    assert precision_of(x @ x) == name
