"""Evaluations and pictures during training: of a copy of the weights, in a background thread, one at a time."""

from __future__ import annotations

import copy
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import nn

from vim_core.distributed.runtimes.base import Runtime

log = logging.getLogger(__name__)

Network = TypeVar("Network", bound=nn.Module)
CancelCheck = Callable[[], None]
"""Called between batches; raises `EvaluationCancelled` once the training has ended."""
Evaluation = Callable[[CancelCheck], dict[str, float]]
"""Computes metrics of one copy of the weights, without torch's generator, which belongs to the training."""
Drawing = Callable[[CancelCheck], dict[str, bytes]]
"""Draws PNG pictures by name of one copy of the weights, likewise without torch's generator."""
Value = TypeVar("Value")


class EvaluationCancelled(Exception):
    """The training ended before the evaluation did."""


def evaluation_device(device: torch.device) -> torch.device:
    """The device to evaluate on: the training's if CPU or CUDA, else the host, so that no device program changes."""
    return device if device.type in ("cpu", "cuda") else torch.device("cpu")


def snapshot(network: Network, runtime: Runtime) -> Network | None:
    """A frozen copy of a network in evaluation mode, on the evaluation device.

    Of a network that is sharded over the workers the first one gets the copy, the others None; all must call it.
    """
    device = evaluation_device(runtime.device)
    result = runtime.full_network(network, device)
    if result is network:
        memo: dict[int, object] = {}
        if device != runtime.device:
            # Fetched tensor by tensor, as for checkpoints: a copy on the device would be one program for each tensor.
            for parameter in network.parameters():
                memo[id(parameter)] = nn.Parameter(runtime.to_host(parameter), requires_grad=False)
            memo |= {id(buffer): runtime.to_host(buffer) for buffer in network.buffers()}
        result = copy.deepcopy(network, memo)
    return None if result is None else result.requires_grad_(False).eval()


@dataclass(frozen=True)
class Outcome(Generic[Value]):
    """Results of a job on the weights after `done` steps and its time in s, or the error that prevented them."""

    done: int
    results: dict[str, Value]
    seconds: float = 0.0
    error: str = ""


class BackgroundThread(Generic[Value]):
    """Runs jobs in one thread; the training thread starts them and polls for their results.

    A thread takes its share of the cores but changes no bits: the number of threads that each product is split over
    stays the same, torch's generator is not touched, and on CUDA the work has a stream of its own.

    Args:
        device: of the jobs.
        name: of their kind, such as `evaluation`.
    """

    def __init__(self, device: torch.device, name: str) -> None:
        self._device = device
        self._name = name
        self._closed = threading.Event()
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)
        self._running: tuple[int, Future[Outcome[Value]]] | None = None

    @property
    def busy(self) -> bool:
        """True while a job was started whose result was not polled."""
        return self._running is not None

    def start(self, done: int, job: Callable[[CancelCheck], dict[str, Value]]) -> None:
        """Start a job on the weights after `done` steps; the previous result must have been polled."""
        copied: torch.cuda.Event | None = None
        if self._device.type == "cuda":
            copied = torch.cuda.Event()
            copied.record(torch.cuda.current_stream(self._device))
        self._running = done, self._pool.submit(self._run, done, job, copied)

    def poll(self, wait: bool = False) -> Outcome[Value] | None:
        """The running job's outcome once it is there; None until then and when none runs."""
        if self._running is None or not (wait or self._running[1].done()):
            return None
        (done, future), self._running = self._running, None
        try:
            return future.result()
        except Exception as error:
            log.warning("the %s after %d steps failed", self._name, done, exc_info=error)
            return Outcome(done, {}, error=f"{type(error).__name__}: {error}")

    def close(self) -> None:
        """Cancel the running job at its next check and end the thread."""
        self._closed.set()
        self._pool.shutdown(wait=True)

    def _check_cancelled(self) -> None:
        if self._closed.is_set():
            raise EvaluationCancelled

    def _run(
        self, done: int, job: Callable[[CancelCheck], dict[str, Value]], copied: torch.cuda.Event | None
    ) -> Outcome[Value]:
        start = time.perf_counter()
        if copied is None:
            results = job(self._check_cancelled)
        else:
            # A stream for this thread, which waits until the copy of the weights is complete.
            stream = torch.cuda.Stream(self._device)
            with torch.cuda.device(self._device), torch.cuda.stream(stream):
                stream.wait_event(copied)
                results = job(self._check_cancelled)
                stream.synchronize()
        return Outcome(done, results, time.perf_counter() - start)
