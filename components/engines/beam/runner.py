"""Running Beam pipelines: an explicit runner, shards that resume, progress, errors in the type they were raised in."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from components.contract.api import Progress
from components.engines.beam.options import LOCAL, pipeline_options, runner_name
from components.engines.devices import beam_threads
from components.engines.shards import finished_counter, start_progress
from vim_core import errors
from vim_core.config import RunConfig
from vim_core.errors import ConfigError, VimError

S = TypeVar("S")

POLL_SECONDS = 0.3
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
"""Read by the numeric libraries of a new process when it imports them."""

STEP_SUFFIX = re.compile(r" \[while running [^\]]*\]$")
"""Text that Beam appends to the message of an error in a step."""

VIM_ERROR = re.compile(r"^vim_core\.errors\.(\w+): (.*)$", re.MULTILINE)


def run_pipeline(
    run: RunConfig,
    build: Callable[[Any], Any],
    progress: Progress | None = None,
    count_done: Callable[[], int] | None = None,
) -> None:
    """Run the Beam pipeline that `build` fills and wait for its end.

    With `progress` and `count_done`, the progress bar shows `count_done()` while the pipeline runs.

    Raises:
        ConfigError: `run.beam_runner` would start another runner, or `run.beam_options` do not suit it.
        VimError: a step raised it; its type and message are kept.
    """
    pipeline = _make_pipeline(run, build)
    with _progress(progress, count_done), _muted_log(), _limited_threads(run):
        try:
            pipeline.run().wait_until_finish()
        except VimError as error:
            raise type(error)(STEP_SUFFIX.sub("", str(error))) from error
        except Exception as error:
            original = vim_error_in(str(error))
            if original is None:
                raise
            raise original from error


def start_pipeline(run: RunConfig, build: Callable[[Any], Any]) -> Any:
    """Hand the pipeline that `build` fills to its runner and return Beam's result without waiting for it.

    Raises:
        ConfigError: see `run_pipeline`.
    """
    return _make_pipeline(run, build).run()


def _make_pipeline(run: RunConfig, build: Callable[[Any], Any]) -> Any:
    import apache_beam as beam

    runner, options = runner_name(run), pipeline_options(run)
    try:
        pipeline = beam.Pipeline(runner=runner, options=options)
    except ValueError as error:  # Beam's own checks, such as of bucket names
        raise ConfigError(f"run.beam_options={run.beam_options}: {error}") from error
    build(pipeline)
    return pipeline


def run_shards(
    run: RunConfig,
    shards: Sequence[S],
    process: Callable[[S], Any],
    finished: Callable[[S], bool],
    progress: Progress,
    unit: str = "shard",
) -> None:
    """Process every shard that no earlier attempt finished; the result file is written last."""
    import apache_beam as beam

    left = start_progress(shards, finished, progress, unit)
    if not left:
        return

    def build(pipeline: Any) -> None:
        _ = pipeline | "shards" >> beam.Create(left) | "spread" >> beam.Reshuffle() | "process" >> beam.Map(process)

    run_pipeline(run, build, progress, finished_counter(shards, finished))


def vim_error_in(text: str) -> VimError | None:
    """The last error of ours in a traceback's text: all that Beam passes on from another process; None without one."""
    matches = VIM_ERROR.findall(text)
    if not matches:
        return None
    name, message = matches[-1]
    original: VimError = getattr(errors, name, VimError)(STEP_SUFFIX.sub("", message))
    return original


@contextlib.contextmanager
def _limited_threads(run: RunConfig) -> Iterator[None]:
    """Let the processes that Beam starts meanwhile begin with their share of the cores instead of all of them."""
    if run.beam_runner != LOCAL or run.beam_processes <= 1:
        yield
        return
    before = {name: os.environ.get(name) for name in THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, str(beam_threads(run))))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _muted_log() -> Iterator[None]:
    """Mute Beam's local runner: it logs every error that it raises, each time with the whole traceback."""
    logger = logging.getLogger("apache_beam")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


@contextlib.contextmanager
def _progress(progress: Progress | None, count_done: Callable[[], int] | None) -> Iterator[None]:
    """Advance the bar from a thread meanwhile, and once at the end."""
    if progress is None or count_done is None:
        yield
        return
    stop = threading.Event()

    def poll() -> None:
        pause = POLL_SECONDS
        while not stop.wait(pause):
            began = time.monotonic()
            progress.advance(count_done())
            # A remote store is slow to answer: spend at most a tenth of the time on requests.
            pause = max(POLL_SECONDS, 9 * (time.monotonic() - began))

    thread = threading.Thread(target=poll, name="beam-progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    progress.advance(count_done())
