"""Data parallelism: gradients averaged in buckets while the backward pass still computes the others.

Own code rather than torch's `DistributedDataParallel`, whose wrapper expects one forward call a step: the
discriminator has three, takes part in the generator's backward pass without gradients, and R1 differentiates it twice.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor, nn

BUCKET_BYTES = 25 << 20
"""Bytes of gradients per collective, as in torch's DDP: long enough for the bandwidth, short enough to overlap."""

ALIGNMENT = 16
"""Elements that every gradient's place in a bucket is a multiple of, so that fused kernels read whole vectors."""


class Bucket:
    """Neighbouring parameters whose gradients are one flat tensor, from the arrival of the first to the update."""

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        self.parameters = parameters
        self.offsets: dict[nn.Parameter, int] = {}
        self.length = 0
        for parameter in parameters:
            self.offsets[parameter] = self.length
            self.length += -(-parameter.numel() // ALIGNMENT) * ALIGNMENT
        self.arrived: set[nn.Parameter] = set()
        self.flat: Tensor | None = None
        self.work: dist.Work | None = None

    @property
    def full(self) -> bool:
        """True once every parameter's gradient has arrived."""
        return len(self.arrived) == len(self.parameters)

    def take(self, parameter: nn.Parameter, share: float) -> None:
        """Make the parameter's gradient, times `share`, a part of the flat tensor.

        Raises:
            RuntimeError: it has arrived before.
        """
        if parameter in self.arrived:
            raise RuntimeError(
                f"a parameter {list(parameter.shape)} got two gradients before the update: only the last backward pass "
                "of a step may average them (accumulate_gradients)"
            )
        assert parameter.grad is not None
        self.arrived.add(parameter)
        if self.flat is None:
            # Zeros: what pads the places, and the place of a gradient that never comes.
            self.flat = parameter.new_zeros(self.length, requires_grad=False)
        place = self.flat[self.offsets[parameter] :][: parameter.numel()]
        dense = parameter.is_contiguous() or parameter.is_contiguous(memory_format=torch.channels_last)
        # Laid out as the parameter: fused optimizers refuse anything else.
        view = place.as_strided(parameter.shape, parameter.stride()) if dense else place.view(parameter.shape)
        torch.mul(parameter.grad, share, out=view)
        parameter.grad = view

    def start(self) -> None:
        """Start the collective."""
        if self.flat is None:
            self.flat = self.parameters[0].new_zeros(self.length, requires_grad=False)
        self.work = dist.all_reduce(self.flat, async_op=True)

    def finish(self) -> None:
        """Wait for the collective (on CUDA the stream does, not the host) and be ready for the next step."""
        assert self.work is not None
        self.work.wait()
        self.work, self.flat = None, None
        self.arrived.clear()


class GradientBuckets:
    """Averages gradients over the workers, each bucket as soon as the backward pass has filled it and those before.

    Buckets hold parameters in reverse order, which is about the order of their gradients, and start in their own order
    on every worker, whatever order gradients arrive in. A parameter must have a gradient on all workers or on none,
    which follows where the graph is a function of settings and step alone; without one it stays without.

    Args:
        parameters: those that learn, in the order of the forward pass.
        world: number of workers, of the default process group.
        size: bytes of a bucket.
    """

    active = True
    """False while gradients only accumulate: set it for every backward pass but the last of a step."""

    def __init__(self, parameters: Iterable[nn.Parameter], world: int, size: int = BUCKET_BYTES) -> None:
        self.share = 1.0 / world
        self.buckets: list[Bucket] = []
        self._started = 0
        groups: list[list[nn.Parameter]] = []
        filled = size
        for parameter in reversed(list(parameters)):
            own = parameter.numel() * parameter.element_size()
            alike = bool(groups) and (groups[-1][0].dtype, groups[-1][0].device) == (parameter.dtype, parameter.device)
            if filled + own > size or not alike:
                groups.append([])
                filled = 0
            groups[-1].append(parameter)
            filled += own
        self.buckets = [Bucket(group) for group in groups]
        self._bucket_of = {parameter: bucket for bucket in self.buckets for parameter in bucket.parameters}
        arrive = weakref.WeakMethod(self._arrive)

        def hook(parameter: Tensor) -> None:
            method = arrive()
            if method is not None:
                method(parameter)  # type: ignore[arg-type]

        for parameter in self._bucket_of:
            parameter.register_post_accumulate_grad_hook(hook)

    def finish(self) -> None:
        """Replace all gradients by their means; those that no hook saw, too."""
        for parameter, bucket in self._bucket_of.items():
            if parameter.grad is not None and parameter not in bucket.arrived:
                bucket.take(parameter, self.share)
        for bucket in self.buckets[self._started :]:
            bucket.start()
        for bucket in self.buckets:
            bucket.finish()
        self._started = 0

    def _arrive(self, parameter: nn.Parameter) -> None:
        """A gradient is complete."""
        if not self.active:
            return
        self._bucket_of[parameter].take(parameter, self.share)
        while self._started < len(self.buckets) and self.buckets[self._started].full:
            self.buckets[self._started].start()
            self._started += 1
