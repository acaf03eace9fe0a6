"""A process group of pretended workers in one process: collectives move nothing, but their calls can be counted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch.distributed as dist


@contextmanager
def pretended_workers(world: int) -> Iterator[None]:
    """This process as worker 0 of so many, whose sums are this worker's own values."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=world)
    try:
        yield
    finally:
        dist.destroy_process_group()
