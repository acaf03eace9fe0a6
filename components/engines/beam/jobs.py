"""Beam as the components use it: an explicit runner, shard jobs that resume, progress, errors as they were raised."""

from __future__ import annotations

import contextlib
import functools
import importlib
import logging
import os
import platform
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from components.contract.api import Context, Progress
from components.engines.beam.options import LOCAL, options_of, runner_of
from vim_core.config import RunConfig
from vim_core.errors import ConfigError, VimError
from vim_core.storage import io

if TYPE_CHECKING:
    from vim_core.models.classifier import Classifier
    from vim_core.models.vit_vqgan import Tokenizer

J = TypeVar("J")

POLL_SECONDS = 0.3
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
"""What numeric libraries of a new process read before anybody can tell them otherwise."""

STEP = re.compile(r" \[while running [^\]]*\]$")
"""What Beam appends to the message of a step's error."""

RAISED = re.compile(r"^vim_core\.errors\.(\w+): (.*)$", re.MULTILINE)


def run_pipeline(
    run: RunConfig,
    build: Callable[[Any], Any],
    progress: Progress | None = None,
    done: Callable[[], int] | None = None,
) -> None:
    """Run the Beam pipeline that `build` fills, to its end.

    With `progress` and `done`, the bar follows `done()` while the pipeline runs.

    Raises:
        ConfigError: `run.beam_runner` names a runner that would start another one; `run.beam_options` do not suit it.
        VimError: what a step raised, as it was.
    """
    pipeline = _pipeline(run, build)
    with _followed(progress, done), _quiet(), _inherited_threads(run):
        try:
            pipeline.run().wait_until_finish()
        except VimError as error:
            raise type(error)(STEP.sub("", str(error))) from error
        except Exception as error:
            # from other processes Beam hands over the text of a step's error, not the error
            original = _original(error)
            if original is None:
                raise
            raise original from error


def start_pipeline(run: RunConfig, build: Callable[[Any], Any]) -> Any:
    """Hand the pipeline that `build` fills to its runner and return Beam's result without waiting for it.

    Raises:
        ConfigError: see `run_pipeline`.
    """
    return _pipeline(run, build).run()


def _pipeline(run: RunConfig, build: Callable[[Any], Any]) -> Any:
    import apache_beam as beam

    runner, options = runner_of(run), options_of(run)
    try:
        pipeline = beam.Pipeline(runner=runner, options=options)
    except ValueError as error:  # Beam's own checks, such as of bucket names
        raise ConfigError(f"run.beam_options={run.beam_options}: {error}") from error
    build(pipeline)
    return pipeline


def run_shards(
    run: RunConfig,
    jobs: Sequence[J],
    perform: Callable[[J], Any],
    finished: Callable[[J], bool],
    progress: Progress,
    unit: str = "shard",
) -> None:
    """Do every job that an earlier attempt has not finished; each leaves its result as a file, the last act of it."""
    import apache_beam as beam

    waiting = announce(jobs, finished, progress, unit)
    if not waiting:
        return

    def build(pipeline: Any) -> None:
        _ = pipeline | "jobs" >> beam.Create(waiting) | "spread" >> beam.Reshuffle() | "perform" >> beam.Map(perform)

    run_pipeline(run, build, progress, counter(jobs, finished))


def counter(jobs: Sequence[J], finished: Callable[[J], bool]) -> Callable[[], int]:
    """How many jobs are finished; a finished one is not asked about again."""
    waiting = list(jobs)

    def count() -> int:
        waiting[:] = [job for job in waiting if not finished(job)]
        return len(jobs) - len(waiting)

    return count


def announce(jobs: Sequence[J], finished: Callable[[J], bool], progress: Progress, unit: str = "shard") -> list[J]:
    """Start the bar at the jobs an earlier attempt finished, and give the others."""
    waiting = [job for job in jobs if not finished(job)]
    before = len(jobs) - len(waiting)
    progress.start(len(jobs), unit)
    if before:
        progress.note(f"{before} of {len(jobs)} {unit}s were finished by an earlier attempt")
        progress.advance(before)
    return waiting


def publish(ctx: Context, source: str, name: str) -> None:
    """Put a finished file of the work folder among the outputs; local files are linked, which costs no space."""
    target = ctx.path(name)
    if not io.is_local(source) or not io.is_local(target):
        io.write_bytes(target, io.read_bytes(source))
        return
    with io.staged(target) as staged:
        try:
            os.link(io.local_path(source), staged)
        except OSError:  # another disk, or one without hard links
            shutil.copyfile(io.local_path(source), staged)


def threads_of(run: RunConfig) -> int:
    """Threads of each Beam process: the cores that `run.threads` allows, shared by `run.beam_processes`."""
    from vim_core.distributed.runtimes import resolve_threads

    return max(1, resolve_threads(run.threads) // max(1, run.beam_processes))


def device_of(run: RunConfig) -> str:
    """Where networks run: 'cuda' or 'cpu' (also for run.device=xla: Beam reaches no TPU).

    Workers of another runner than the local one have what the setting says.

    Raises:
        ConfigError: CUDA was asked for and is not there.
    """
    import torch

    if run.beam_runner != LOCAL and run.device in ("cpu", "cuda"):
        return run.device
    present = torch.cuda.is_available()
    if run.device == "cuda" and not present:
        raise ConfigError("run.device='cuda': this machine has no CUDA device; set run.device=cpu or auto")
    return "cuda" if present and run.device != "cpu" else "cpu"


def numeric_name(device: str, threads: int, batch: int) -> str:
    """A folder name for unfinished work: shards of another numeric class are not continued (contract 11)."""
    return f"{platform.machine()}-{device}-fp32-t{threads}-b{batch}"


def set_threads(threads: int) -> None:
    """Set torch's threads in the process that calls, explicitly, because the count can change the last bit."""
    import pyarrow as pa
    import torch

    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
    if pa.cpu_count() != threads:
        pa.set_cpu_count(threads)


@functools.lru_cache(maxsize=1)
def tokenizer(weights: str, config: str, device: str) -> Tokenizer:
    """One tokenizer per process, whatever the number of shards."""
    return importlib.import_module("vim_core.models.vit_vqgan").load_tokenizer(weights, config, device)  # type: ignore[no-any-return]


@functools.lru_cache(maxsize=1)
def classifier(weights: str, config: str, device: str) -> Classifier:
    """One classifier per process, whatever the number of shards."""
    return importlib.import_module("vim_core.models.classifier").load_classifier(weights, config, device)  # type: ignore[no-any-return]


@contextlib.contextmanager
def _inherited_threads(run: RunConfig) -> Iterator[None]:
    """Have the processes that Beam starts meanwhile begin with their share of the cores, not with all of them."""
    if run.beam_runner != LOCAL or run.beam_processes <= 1:
        yield
        return
    before = {name: os.environ.get(name) for name in THREADS}
    os.environ.update(dict.fromkeys(THREADS, str(threads_of(run))))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _original(error: Exception) -> VimError | None:
    found = RAISED.findall(str(error))
    if not found:
        return None
    name, message = found[-1]
    cls = getattr(importlib.import_module("vim_core.errors"), name, VimError)
    raised: VimError = cls(STEP.sub("", message))
    return raised


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No log lines of Beam's local runner: it logs every error that it raises, each time with its whole trace."""
    logger = logging.getLogger("apache_beam")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


@contextlib.contextmanager
def _followed(progress: Progress | None, done: Callable[[], int] | None) -> Iterator[None]:
    if progress is None or done is None:
        yield
        return
    stop = threading.Event()

    def follow() -> None:
        pause = POLL_SECONDS
        while not stop.wait(pause):
            began = time.monotonic()
            progress.advance(done())
            # a remote store takes long to answer: spend at most a tenth of the time asking
            pause = max(POLL_SECONDS, 9 * (time.monotonic() - began))

    thread = threading.Thread(target=follow, name="beam-progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    progress.advance(done())
