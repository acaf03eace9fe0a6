"""The one place that starts Ray and runs a function under Ray Train."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from collections.abc import Callable
from typing import Any

from components.artifacts.scratch import scratch
from components.contract.api import Context
from components.engines.ray.interrupts import interruptible
from vim_core.config import RunConfig as VimRun
from vim_core.distributed.runtimes import resolve_threads
from vim_core.errors import VimError

# Read by Ray at import: the V2 trainer, and no phoning home.
os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

KNOCK_S = 10.0
ABORT_S = 15.0


def connect(ctx: Context) -> None:
    """Join the cluster of `run.ray_address`, or start a private one on this machine.

    Raises:
        VimError: no cluster answers at the address.
    """
    join(ctx.run)


def join(run: VimRun) -> None:
    """See `connect`."""
    import ray

    if not ray.is_initialized():
        with interruptible():  # Ray installs handlers of its own
            _join(run)


def _join(run: VimRun) -> None:
    import ray

    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": True}
    address = run.ray_address
    if not address:
        cores = resolve_threads(run.threads)
        # Logical CPUs only gate scheduling: one for every worker's threads and some for Ray's own actors.
        # "local": without it Ray would join whatever cluster somebody left running on this machine.
        _retried(lambda: ray.init("local", num_cpus=cores * run.workers + 2, include_dashboard=False, **quiet))
        return
    try:
        _knock(address)
        ray.init(address=address, **quiet)
    except (OSError, RuntimeError) as error:
        raise VimError(
            f"run.ray_address={address!r}: no Ray cluster answers there ({error}); leave it empty to start "
            "one on this machine"
        ) from None


def _retried(start: Callable[[], Any]) -> None:
    """Start Ray, once more if its head process missed Ray's own limit of 30 seconds, as on a busy machine.

    Raises:
        VimError: the second start failed, too.
    """
    import ray

    try:
        start()
    except Exception:
        # Ray has no class of its own for a head process that is late.
        ray.shutdown()
        try:
            start()
        except Exception as error:
            raise VimError(f"Ray does not start on this machine: {error}") from error


def _knock(address: str) -> None:
    """Raise `OSError` where nothing listens at host:port: Ray itself tries for minutes before it gives up."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), timeout=KNOCK_S).close()


def fit(worker: Callable[[dict[str, Any]], None], arguments: dict[str, Any], ctx: Context, local: bool = False) -> str:
    """Run `worker(arguments)` in Ray Train workers and wait for it; returns how it ran, for the manifest.

    Lost workers and nodes are restarted up to `run.restarts` times, announced preemptions without a limit; the worker
    continues from its checkpoints.
    `local` uses Ray Train's local mode: this process, no cluster.

    Raises:
        VimError: the training failed for good; the reason is the worker's own error.
    """
    from ray.train import FailureConfig, RunConfig, ScalingConfig

    from components.engines.ray.backend import ListeningConfig
    from components.engines.ray.trainers import AloneTrainer, Trainer

    # What people see comes from the spool; Ray's own lines about controllers and workers stay in its log files.
    logging.getLogger("ray").setLevel(logging.WARNING)
    how = "Ray Train local mode" if local else f"Ray Train, {ctx.run.workers} worker process(es)"
    run_config = RunConfig(
        name=f"{ctx.name}-{ctx.fingerprint}",
        storage_path=_storage(ctx),
        failure_config=FailureConfig(max_failures=0 if local else ctx.run.restarts),
    )
    if ctx.run.device == "xla" and not local:
        from components.engines.ray import xla_backend

        sliced = xla_backend.trainer(worker, arguments, ctx, run_config)
        connect(ctx)
        _run(sliced, ctx)
        return how
    if not local:
        connect(ctx)
    threads = resolve_threads(ctx.run.threads)
    scaling = ScalingConfig(
        num_workers=0 if local else ctx.run.workers,
        use_gpu=_wants_gpu(ctx),
        resources_per_worker=None if local else {"CPU": threads},
    )
    kind = Trainer if ctx.run.ray_address else AloneTrainer
    trainer = kind(
        train_loop_per_worker=worker,
        train_loop_config=arguments,
        torch_config=None if local else ListeningConfig(backend="nccl" if scaling.use_gpu else "gloo"),
        scaling_config=scaling,
        run_config=run_config,
    )
    _run(trainer, ctx)
    split = ", sharded by FSDP2" if ctx.run.parallel == "fsdp" and ctx.run.workers > 1 and not local else ""
    return f"{how}{split}"


def _run(trainer: Any, ctx: Context) -> None:
    controllers: list[Any] = []
    # Ray's own handler for Ctrl-C ends this process as if all had gone well.
    trainer._register_sigint_handler = controllers.append
    try:
        with interruptible():
            trainer.fit()
    except VimError:
        raise
    except KeyboardInterrupt:
        _abort(controllers)
        raise
    except Exception as error:
        raise VimError(f"{ctx.name}: training failed: {_root_cause(error)}") from error


def _abort(controllers: list[Any]) -> None:
    """End the workers before the lease is given back: two trainings in one place must not meet."""
    import ray

    for controller in controllers:
        # The controller ends itself with its workers, and so cannot answer.
        with contextlib.suppress(ray.exceptions.RayError, ray.exceptions.GetTimeoutError):
            ray.get(controller.abort.remote(), timeout=ABORT_S)


def _root_cause(error: BaseException) -> str:
    failures: dict[int, BaseException] = getattr(error, "worker_failures", {})
    for failure in failures.values():
        error = failure
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {error}".strip()


def _wants_gpu(ctx: Context) -> bool:
    import torch

    return ctx.run.device == "cuda" or (ctx.run.device == "auto" and torch.cuda.is_available())


def _storage(ctx: Context) -> str:
    """Ray's own bookkeeping of the run; our checkpoints do not go through it."""
    return str(scratch(ctx.work) / "ray")
