"""Precision of products of fp32 tensors, in scopes: torch keeps it as a setting of the process, not of a tensor.

A process computes strictly by default; a training that asks for less sets it around its steps alone. Threads take
turns, so that an evaluation beside a training gets its own precision and the training's bits stay the same.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

import torch

HIGHEST, HIGH, BF16 = "highest", "high", "bf16"
"""Levels: strict fp32; TF32 on CUDA and three bf16 products on TPU; what networks in bf16 use for their fp32 rest."""

CUDA_TF32 = {HIGHEST: (False, False), HIGH: (True, True), BF16: (False, True)}
"""Whether CUDA's matrix products and cuDNN's convolutions use TF32, by level.

In bf16 the codebook's lookup stays strict and costs nothing beside the rest; R1's convolutions would take half of the
time of its steps.
"""

Scope = Callable[[str], contextlib.AbstractContextManager[None]]
P = ParamSpec("P")


class OnDevice(Protocol):
    """Something that computes on one device."""

    device: Any


R = TypeVar("R")
Owner = TypeVar("Owner", bound=OnDevice)


@contextlib.contextmanager
def _cuda(level: str) -> Iterator[None]:
    with _turn:
        before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = CUDA_TF32[level]
        try:
            yield
        finally:
            torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


@contextlib.contextmanager
def _cpu(level: str) -> Iterator[None]:
    # Strict at every level; only a program around this library may have set something else.
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


_turn = threading.RLock()
_scopes: dict[str, Scope] = {"cpu": _cpu, "cuda": _cuda}


def register(device_type: str, scope: Scope) -> None:
    """Set how a type of device changes the precision of its products."""
    _scopes[device_type] = scope


def products(device: torch.device, level: str) -> contextlib.AbstractContextManager[None]:
    """A scope in which products of fp32 tensors on the device have this precision."""
    scope = _scopes.get(device.type)
    return contextlib.nullcontext() if scope is None else scope(level)


def strict(method: Callable[Concatenate[Owner, P], R]) -> Callable[Concatenate[Owner, P], R]:
    """A method whose products are strict fp32, whatever the precision around its call."""

    @functools.wraps(method)
    def call(owner: Owner, /, *args: P.args, **kwargs: P.kwargs) -> R:
        device = torch.device(owner.device)
        with products(device, HIGHEST), torch.autocast(device.type, enabled=False):
            return method(owner, *args, **kwargs)

    return call
