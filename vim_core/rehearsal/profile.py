"""Facts of a few training steps from torch's profiler: time by part, host reads, collectives, peak of memory."""

from __future__ import annotations

import gc
import math
import types
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch._C._autograd import DeviceType
from torch.distributed.tensor import DTensor
from torch.profiler import ProfilerActivity, profile

LABEL = "vim."
PARTS = {
    "vim.data": "data", "vim.to_device": "to_device", "vim.encode": "encode", "vim.forward": "forward",
    "vim.backward": "backward", "vim.optimizer": "optimizer", "vim.discriminator": "discriminator",
    "vim.codebook": "codebook", "vim.collectives": "collectives", "vim.log": "log",
}  # fmt: skip
"""Name of a part by its label in the training's code; what no label covers is `other`."""
READS = ("aten::_local_scalar_dense", "aten::nonzero", "aten::equal", "aten::masked_select", "aten::_unique2")
"""Operations whose result the host waits for; CUDA's copies to the host are counted beside them."""
HOST_KERNELS = ("aten::_fused_adam", "aten::one_hot", "aten::_cholesky_solve_helper")
"""Beginnings of operations that read values on a CPU, where they lie, and on no other device."""
DEVICE_READS = ("Memcpy DtoH",)
COLLECTIVES = ("c10d::", "_c10d_functional::")
TRANSFERS = ("gloo:", "nccl:")
"""Beginnings of the events that have the tensors of a collective."""
ENDS = (type, types.ModuleType, types.FunctionType, types.BuiltinFunctionType, types.FrameType)
NOT_COLLECTIVES = ("wait_tensor", "barrier", "monitored")


@dataclass(frozen=True)
class Event:
    """A profiled operation: nanoseconds of its beginning and end, thread, whether it ran on an accelerator, bytes."""

    name: str
    start: int
    end: int
    thread: int = 0
    on_device: bool = False
    bytes: int = 0


@dataclass(frozen=True)
class StepProfile:
    """Facts of the profiled steps, as means over a step.

    `seconds` is by part, with `other`; under the profiler, so only their proportions mean anything. `reads` are by the
    part that they were made in. `collective_bytes` are those that this worker contributes. `peak_bytes` is the highest
    sum of tensors on the device, 0 where unknown.
    """

    seconds: dict[str, float]
    reads: dict[str, float]
    collectives: float
    collective_bytes: float
    peak_bytes: float


@dataclass
class StepProfiler:
    """Profiles the steps between `start` and `stop`; the tensors that `owner` reaches live through all of them."""

    device: torch.device
    owner: object = None
    _profile: Any = None
    _before: float = 0.0
    events: list[Event] = field(default_factory=list)

    def start(self) -> None:
        """Begin; the device must have finished all steps before."""
        kinds = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if self.device.type == "cuda" else [])
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        self._before = live_bytes(self.owner) if self.device.type == "cpu" else 0.0
        self._profile = profile(activities=kinds, record_shapes=True, profile_memory=self.device.type == "cpu")
        self._profile.start()

    def stop(self, steps: int) -> StepProfile:
        """End after `steps` steps that the device has finished."""
        self._profile.stop()
        self.events = [event_of(raw) for raw in self._profile.profiler.kineto_results.events()]
        self._profile = None
        peak = self._before + highest(self.events) if self.device.type == "cpu" else 0.0
        if self.device.type == "cuda":
            peak = float(torch.cuda.max_memory_allocated(self.device))
        return summarise(self.events, steps, peak)


def summarise(events: Sequence[Event], steps: int, peak_bytes: float = 0.0) -> StepProfile:
    """The facts of `steps` steps whose operations these are."""
    labels = [event for event in events if event.name in PARTS]
    # On an accelerator the host only hands over work: the time of a part is that of its operations there.
    device = [event for event in labels if event.on_device]
    host = [event for event in labels if not event.on_device]
    seconds = exclusive(device) if device else exclusive(host)
    if device:
        seconds |= {part: value for part, value in exclusive(host).items() if part in ("data", "to_device", "log")}
    if labels:
        whole = (max(event.end for event in labels) - min(event.start for event in labels)) / 1e9
        seconds["other"] = max(0.0, whole - sum(seconds.values()))
    own = [] if device else [event for event in events if event.name.startswith(HOST_KERNELS)]
    reads: Counter[str] = Counter()
    for event in events:
        read = event.name in READS or event.name.startswith(DEVICE_READS)
        if read and not any(each.start <= event.start < each.end for each in own):
            around = [each for each in host if each.start <= event.start < each.end]
            inner = min(around, key=lambda each: each.end - each.start, default=None)
            reads[PARTS[inner.name] if inner else "other"] += 1
    sent = [event for event in events if event.name.startswith(TRANSFERS)]
    begun = [
        event for event in events
        if event.name.startswith(COLLECTIVES) and not any(word in event.name for word in NOT_COLLECTIVES)
    ]  # fmt: skip
    return StepProfile(
        {part: value / steps for part, value in seconds.items()},
        {part: count / steps for part, count in reads.items()},
        len(begun) / steps,
        sum(event.bytes for event in sent) / steps,
        peak_bytes,
    )


def exclusive(labels: Iterable[Event]) -> dict[str, float]:
    """Seconds by part without those of labels inside; the parts inside a discriminator's step count as it.

    Collectives and encoding count as themselves wherever they are.
    """
    seconds: Counter[str] = Counter()
    labels = list(labels)
    for thread in {event.thread for event in labels}:
        stack: list[tuple[Event, str]] = []
        for event in sorted((e for e in labels if e.thread == thread), key=lambda e: (e.start, -e.end)):
            while stack and stack[-1][0].end <= event.start:
                stack.pop()
            part = PARTS[event.name]
            if stack:
                outer = stack[-1][1]
                part = part if part in ("collectives", "encode") else outer if outer == "discriminator" else part
                seconds[outer] -= event.end - event.start
            seconds[part] += event.end - event.start
            stack.append((event, part))
    return {part: nanoseconds / 1e9 for part, nanoseconds in seconds.items()}


def highest(events: Iterable[Event]) -> float:
    """The highest sum of allocated less freed bytes, in the order of time; at least 0."""
    total = peak = 0.0
    for event in sorted((e for e in events if e.name == "[memory]"), key=lambda e: e.start):
        total += event.bytes
        peak = max(peak, total)
    return peak


def live_bytes(owner: object) -> float:
    """Bytes of the CPU's tensors that can be reached from an object, each storage once."""
    storages: dict[int, int] = {}
    seen, left = {id(owner)}, [owner]
    while left:
        each = left.pop()
        if isinstance(each, torch.Tensor):
            local = each.to_local() if isinstance(each, DTensor) else each
            if local.device.type == "cpu" and local.layout is torch.strided:
                storages[local.untyped_storage().data_ptr()] = local.untyped_storage().nbytes()
        # Classes, modules and functions lead to everything there is.
        fresh = [x for x in gc.get_referents(each) if id(x) not in seen and not isinstance(x, ENDS)]
        seen |= {id(x) for x in fresh}
        left += fresh
    return float(sum(storages.values()))


def event_of(raw: Any) -> Event:
    """An event as torch's profiler has it."""
    name, start = raw.name(), raw.start_ns()
    size = 0
    if name == "[memory]":
        size = raw.nbytes()
    elif name.startswith(TRANSFERS):
        # fp32 unless the event says otherwise.
        size = sum(math.prod(shape) for shape in raw.shapes()) * 4
    on_device = raw.device_type() != DeviceType.CPU
    return Event(name, start, start + raw.duration_ns(), raw.start_thread_id(), on_device, size)
