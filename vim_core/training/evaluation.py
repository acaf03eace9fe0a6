"""Evaluation beside the training: on a copy of the weights, in a thread of its own, one at a time."""

from __future__ import annotations

import contextlib
import copy
import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import nn

from vim_core.distributed.runtimes.base import Runtime

log = logging.getLogger(__name__)

Network = TypeVar("Network", bound=nn.Module)
CancelCheck = Callable[[], None]
"""Called between batches; raises `Abandoned` once nobody waits for the figures any more."""
Evaluation = Callable[[CancelCheck], dict[str, float]]
"""Figures of one copy of the weights. It may draw nothing from torch's generator, which belongs to the training."""


class EvaluationCancelled(Exception):
    """The training ended before the evaluation did."""


def evaluation_device(device: torch.device) -> torch.device:
    """Where to evaluate: beside the training on CPU and CUDA; else on the host, so that no device program changes."""
    return device if device.type in ("cpu", "cuda") else torch.device("cpu")


def snapshot(network: Network, runtime: Runtime) -> Network | None:
    """A copy of a network where evaluations run, in evaluation mode, that the training does not touch.

    Of a network that is split over the workers the first one gets it, the others None; call it on all of them.
    """
    found = runtime.whole(network, evaluation_device(runtime.device))
    if found is network:
        found = _copied(network, runtime)
    return None if found is None else found.requires_grad_(False).eval()


def _copied(network: Network, runtime: Runtime) -> Network:
    if evaluation_device(runtime.device) == runtime.device:
        return copy.deepcopy(network)
    # Tensor by tensor, as for checkpoints: copied on the device and then fetched, each would be a program of its own.
    own: dict[int, object] = {}
    for parameter in network.parameters():
        own[id(parameter)] = nn.Parameter(runtime.to_host(parameter), requires_grad=False)
    own |= {id(buffer): runtime.to_host(buffer) for buffer in network.buffers()}
    return copy.deepcopy(network, own)


@dataclass(frozen=True)
class EvaluationResult:
    """Figures of the weights after `done` steps, or why there are none."""

    done: int
    figures: dict[str, float]
    error: str = ""


class BackgroundEvaluator:
    """Runs evaluations in one thread; the training thread begins them and fetches what they found.

    A thread takes its share of the cores but changes no bits: the number of threads that each product is split over
    stays the same, torch's generator is not touched, and on CUDA the work has a stream of its own.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._over = threading.Event()
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="evaluation")
        self._running: tuple[int, Future[dict[str, float]]] | None = None

    @property
    def busy(self) -> bool:
        """Whether an evaluation was begun and not fetched."""
        return self._running is not None

    def begin(self, done: int, job: Evaluation) -> None:
        """Start the evaluation of the weights after `done` steps; the last one must have been fetched."""
        self._running = done, self._pool.submit(self._run, job, _ready(self._device))

    def fetch(self, wait: bool = False) -> EvaluationResult | None:
        """The running evaluation's outcome once it has one; None until then and when none runs."""
        if self._running is None or not (wait or self._running[1].done()):
            return None
        (done, future), self._running = self._running, None
        try:
            return EvaluationResult(done, future.result())
        except Exception as error:
            log.warning("the evaluation after %d steps failed", done, exc_info=error)
            return EvaluationResult(done, {}, f"{type(error).__name__}: {error}")

    def close(self) -> None:
        """Abandon what runs, at its next batch, and end the thread."""
        self._over.set()
        self._pool.shutdown(wait=True)

    def _check(self) -> None:
        if self._over.is_set():
            raise EvaluationCancelled

    def _run(self, job: Evaluation, ready: torch.cuda.Event | None) -> dict[str, float]:
        start = time.perf_counter()
        with _apart(self._device, ready):
            figures = job(self._check)
        return figures | {"seconds": time.perf_counter() - start}


def _ready(device: torch.device) -> torch.cuda.Event | None:
    """When the copy of the weights will be complete."""
    if device.type != "cuda":
        return None
    event = torch.cuda.Event()
    event.record(torch.cuda.current_stream(device))
    return event


@contextlib.contextmanager
def _apart(device: torch.device, ready: torch.cuda.Event | None) -> Iterator[None]:
    """On CUDA, a stream of this thread's own that begins when the copy is complete."""
    if ready is None:
        yield
        return
    stream = torch.cuda.Stream(device)
    with torch.cuda.device(device), torch.cuda.stream(stream):
        stream.wait_event(ready)
        yield
        stream.synchronize()
