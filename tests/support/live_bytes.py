"""How many bytes of tensors are alive: all of them by the word of torch's CPU allocator, or those put together."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from typing import Any
from unittest.mock import patch

from torch import Tensor
from torch.autograd.profiler import profile
from torch.distributed.tensor import DTensor


@dataclass
class LiveBytes:
    """Beyond what was alive at the beginning: at most at any time, and at the end."""

    peak: int = 0
    kept: int = 0


@contextmanager
def live_bytes() -> Iterator[LiveBytes]:
    """Follow every allocation of this thread; the figures are there on leaving.

    What another thread frees seems to stay, so around collectives the figures are too high.
    """
    measured = LiveBytes()
    gc.collect()  # what earlier networks left must not be freed, and counted, in here
    # Not torch.profiler's own, which imports the compiler for seconds.
    with profile(profile_memory=True) as profiled:
        yield measured
    results = profiled.kineto_results
    assert results is not None
    events = sorted((e.start_ns(), e.nbytes()) for e in results.events() if e.name() == "[memory]")
    alive = list(accumulate((size for _, size in events), initial=0))
    measured.peak, measured.kept = max(alive), alive[-1]


@contextmanager
def gathered_bytes() -> Iterator[LiveBytes]:
    """Follow the whole tensors that come of sharded ones."""
    measured, known = LiveBytes(), list[weakref.ref[Tensor]]()
    gather = DTensor.full_tensor

    def alive() -> int:
        tensors = [reference() for reference in known]
        return sum(value.numel() * value.element_size() for value in tensors if value is not None)

    def followed(value: DTensor, **options: Any) -> Tensor:
        result: Tensor = gather(value, **options)
        known.append(weakref.ref(result))
        measured.peak = max(measured.peak, alive())
        return result

    with patch.object(DTensor, "full_tensor", followed):
        yield measured
    measured.kept = alive()
