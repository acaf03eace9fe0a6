"""Device, threads and the networks loaded on it, in the processes that Beam or Ray start for a component."""

from __future__ import annotations

import functools
import platform
from typing import TYPE_CHECKING

from vim_core.config import RunConfig
from vim_core.errors import ConfigError

if TYPE_CHECKING:
    from vim_core.models.classifier import Classifier
    from vim_core.models.vit_vqgan import Tokenizer

LOCAL = "FnApiRunner"
"""Beam's runner whose workers run on this machine."""


def beam_device(run: RunConfig) -> str:
    """The device of Beam's workers: 'cuda' or 'cpu' ('cpu' also for run.device=xla: Beam reaches no TPU).

    Remote workers have the device that `run.device` names; it is checked for the local runner only.

    Raises:
        ConfigError: `run.device=cuda`, and this machine has no CUDA device.
    """
    import torch

    if run.beam_runner != LOCAL and run.device in ("cpu", "cuda"):
        return run.device
    present = torch.cuda.is_available()
    if run.device == "cuda" and not present:
        raise ConfigError("run.device='cuda': this machine has no CUDA device; set run.device=cpu or auto")
    return "cuda" if present and run.device != "cpu" else "cpu"


def gpu_names() -> list[str]:
    """The names of the GPUs that torch sees in this process; of a slice (MIG) the name says so."""
    import torch

    return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]


def beam_threads(run: RunConfig) -> int:
    """Threads of each Beam process: the cores that `run.threads` allows, divided among `run.beam_processes`."""
    from vim_core.distributed.runtimes import resolve_threads

    return max(1, resolve_threads(run.threads) // max(1, run.beam_processes))


def ray_device(run: RunConfig) -> str:
    """The device of a Ray actor: 'xla', 'cuda' or 'cpu'. Raises `ConfigError` as `beam_device` does."""
    return "xla" if run.device == "xla" else beam_device(run)


def ray_threads(run: RunConfig) -> int:
    """Threads of each Ray actor; see `worker_threads`. Raises `VimError` where no cluster answers."""
    from components.engines.ray.cores import worker_threads
    from components.engines.ray.session import connect

    if run.ray_address and not run.threads:
        connect(run)
    return worker_threads(run, ray_device(run))


def torch_device(device: str, threads: int) -> str:
    """Torch's name of the device in this process; for 'xla' this starts the XLA runtime."""
    if device != "xla":
        return device
    from vim_core.distributed import runtimes

    return str(runtimes.create("xla", "fp32", threads).device)


def set_threads(threads: int) -> None:
    """Set the threads of torch and Arrow in this process, because their number can change the last bit of a result."""
    import pyarrow as pa
    import torch

    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
    if pa.cpu_count() != threads:
        pa.set_cpu_count(threads)


def numeric_folder(device: str, threads: int, batch: int, *, on_host: bool = False) -> str:
    """The folder of unfinished work; shards of another numeric class are not continued (contract 11).

    Threads change bits on CPUs only: of the network, or with `on_host` of sums that the host makes of its outputs.
    """
    parts = [platform.machine(), device, "fp32", *([f"t{threads}"] if on_host or device == "cpu" else []), f"b{batch}"]
    return "-".join(parts)


@functools.lru_cache(maxsize=1)
def cached_tokenizer(weights: str, config: str, device: str) -> Tokenizer:
    """The tokenizer of these two files, loaded once per process."""
    from vim_core.models.vit_vqgan import load_tokenizer

    return load_tokenizer(weights, config, device)


@functools.lru_cache(maxsize=1)
def cached_classifier(weights: str, config: str, device: str) -> Classifier:
    """The classifier of these two files, loaded once per process."""
    from vim_core.models.classifier import load_classifier

    return load_classifier(weights, config, device)
