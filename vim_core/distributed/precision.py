"""Strict fp32 products for a part of a program, whatever precision the rest of it uses."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def highest_products(device: torch.device) -> Iterator[None]:
    """Matrix products of fp32 tensors in strict fp32 inside, on any device; autocast is off.

    Codes are defined by such products: in TF32, 0.5 to 0.7 % of them differ. On XLA the setting counts where a program
    is compiled, so what is recorded inside must be run inside, as `Runtime.map_rows` does. It holds for the whole
    process: not for a thread beside a training, whose products it would change as well.
    """
    if device.type == "xla":
        from vim_core.distributed.runtimes import xla

        with xla.highest_products():
            yield
        return
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("highest")
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(before)
