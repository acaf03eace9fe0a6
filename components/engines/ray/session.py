"""The one place that starts Ray and runs a function under Ray Train."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from components.contract import code
from components.contract.api import Context
from components.engines.environment import prepare, short_temp, temp
from components.engines.ray.cores import worker_threads
from vim_core.config import RunConfig
from vim_core.distributed.runtimes import resolve_threads
from vim_core.errors import VimError
from vim_core.storage import io

# Ray reads these at import: the V2 trainer, no usage reports.
os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

REACH_TIMEOUT_S = 10.0
ABORT_TIMEOUT_S = 15.0
SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Raise `KeyboardInterrupt` on SIGINT and SIGTERM meanwhile, where a handler is set; it comes back afterwards.

    It is the only exception that comes through Ray's waiting unchanged: an orchestrator's own becomes an ordinary error
    there, after which the orchestrator goes on to the next component.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    handled = [number for number in SIGNALS if callable(before[number])]
    try:
        for number in handled:
            signal.signal(number, signal.default_int_handler)
        yield
    finally:
        for number in handled:
            signal.signal(number, before[number])


def connect(run: RunConfig) -> None:
    """Join the cluster of `run.ray_address`, or start a private one on this machine; once per process.

    Raises:
        VimError: no cluster answers at the address, or Ray does not start.
    """
    import ray

    if ray.is_initialized():
        return
    prepare()
    with interruptible():  # Ray installs handlers of its own
        if not run.ray_address:
            _start_cluster(run)
            return
        host, _, port = run.ray_address.removeprefix("ray://").rpartition(":")
        try:
            if host and port.isdigit():  # Ray itself tries for minutes where nothing listens
                socket.create_connection((host, int(port)), timeout=REACH_TIMEOUT_S).close()
            ray.init(
                address=run.ray_address,
                log_to_driver=False,
                logging_level=logging.ERROR,
                configure_logging=True,
                **_own_path(run.ray_address),
            )
        except (OSError, RuntimeError) as error:
            raise VimError(
                f"run.ray_address={run.ray_address!r}: no Ray cluster answers there ({error}); leave it empty to start "
                "one on this machine"
            ) from None


def _own_path(address: str = "") -> dict[str, Any]:
    """Arguments of `ray.init` that let workers import what this process does.

    By itself Ray puts the current folder before everything else, so that a `components` folder there would be run.
    """
    from ray.job_config import JobConfig

    class OwnPath(JobConfig):
        def _runtime_env_has_working_dir(self) -> bool:
            return True  # asked for nothing but whether to add the current folder

    # A client's JobConfig is sent to its server. Workers put one entry after the other in front.
    return {} if address.startswith("ray://") else {"job_config": OwnPath(_py_driver_sys_path=code.search_path()[::-1])}


def _short_temp() -> dict[str, Any]:
    """Arguments of `ray.init` for a temporary folder that is short enough for sockets; raises as `short_temp`."""
    folder = short_temp()
    return {} if folder == temp() else {"_temp_dir": os.path.join(folder, "ray")}


def _start_cluster(run: RunConfig) -> None:
    """Start Ray, once more if its head process misses Ray's own limit of 30 seconds, as on a busy machine."""
    import ray

    # Logical CPUs only gate scheduling: one for every worker's threads and some for Ray's own actors.
    cpus = resolve_threads(run.threads) * run.workers + 2
    for last in (False, True):
        try:
            # "local": without it Ray would join any cluster that runs on this machine.
            ray.init(
                "local",
                num_cpus=cpus,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                configure_logging=True,
                **_own_path(),
                **_short_temp(),
            )
            return
        except Exception as error:  # Ray has no class of its own for a head process that is late
            if last:
                raise VimError(f"Ray does not start on this machine: {error}") from error
            ray.shutdown()


def fit(worker: Callable[[dict[str, Any]], None], arguments: dict[str, Any], ctx: Context, local: bool = False) -> str:
    """Run `worker(arguments)` in Ray Train workers and wait for it; returns how it ran, for the manifest.

    Lost workers and nodes are restarted up to `run.restarts` times, announced preemptions without a limit; the worker
    continues from its checkpoints.
    `arguments["job"]` is a `TrainingJob`. `local` uses Ray Train's local mode: this process, no cluster.

    Raises:
        VimError: the training failed for good; the reason is the worker's own error.
    """
    import torch
    from ray import train as ray_train

    from components.engines.ray.trainers import LeanTrainer, SignalTorchConfig, SingleNodeTrainer

    run = ctx.run
    # Users see the lines of the spool; Ray's own lines about controllers and workers stay in its log files.
    logging.getLogger("ray").setLevel(logging.WARNING)
    run_config = ray_train.RunConfig(
        name=f"{ctx.name}-{ctx.fingerprint}",
        storage_path=str(io.scratch(ctx.work) / "ray"),  # Ray's bookkeeping; our checkpoints do not go through it
        failure_config=ray_train.FailureConfig(max_failures=0 if local else run.restarts),
    )
    use_gpu = run.device == "cuda" or (run.device == "auto" and torch.cuda.is_available())
    threads = run.threads
    if not local:
        if run.ray_address:
            connect(run)
        on_tpu = run.device == "xla" and os.environ.get("PJRT_DEVICE") != "CPU"
        threads = worker_threads(run, "xla" if on_tpu else "cuda" if use_gpu else "cpu", host_wide=on_tpu)
        job = arguments["job"]
        arguments = {**arguments, "job": replace(job, run=replace(job.run, threads=threads))}
    if run.device == "xla" and not local:
        from components.engines.ray import xla_backend

        trainer = xla_backend.xla_trainer(worker, arguments, ctx, run_config, threads)
        connect(run)
    else:
        if not local:
            connect(run)
        trainer = (LeanTrainer if run.ray_address else SingleNodeTrainer)(
            train_loop_per_worker=worker,
            train_loop_config=arguments,
            torch_config=None if local else SignalTorchConfig(backend="nccl" if use_gpu else "gloo"),
            scaling_config=ray_train.ScalingConfig(
                num_workers=0 if local else run.workers,
                use_gpu=use_gpu,
                resources_per_worker=None if local else {"CPU": threads},
            ),
            run_config=run_config,
        )
    run_trainer(trainer, ctx)
    if local:
        return "Ray Train local mode"
    sharded = run.device != "xla" and run.parallel == "fsdp" and run.workers > 1
    return f"Ray Train, {run.workers} worker process(es){', sharded by FSDP2' if sharded else ''}"


def run_trainer(trainer: Any, ctx: Context) -> None:
    """Run a Ray trainer to its end.

    Raises:
        VimError: the training failed.
        KeyboardInterrupt: this process was interrupted; the workers have ended by then.
    """
    import ray

    controllers: list[Any] = []
    # Ray's own handler for Ctrl-C ends this process with a success status.
    trainer._register_sigint_handler = controllers.append
    try:
        with interruptible():
            trainer.fit()
    except VimError:
        raise
    except KeyboardInterrupt:
        # The workers end before the lease is released: two trainings must not write into one folder.
        for controller in controllers:
            # The controller ends together with its workers, so it cannot answer.
            with contextlib.suppress(ray.exceptions.RayError, ray.exceptions.GetTimeoutError):
                ray.get(controller.abort.remote(), timeout=ABORT_TIMEOUT_S)
        raise
    except Exception as error:
        cause: BaseException = error
        for failure in getattr(error, "worker_failures", {}).values():
            cause = failure
        while cause.__cause__ is not None:
            cause = cause.__cause__
        reason = f"{type(cause).__name__}: {cause}".strip()
        raise VimError(f"{ctx.name}: training failed: {reason}") from error
