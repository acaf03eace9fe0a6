"""Beam pipelines: runner and options from the settings, shards that resume, progress, errors of their own type.

`FnApiRunner` works here, in memory or in several processes. `PortableRunner` needs a job server, `DataflowRunner` a
project, a region, a bucket and a container with this package; both get their flags from `run.beam_options`. All is
checked before anything starts, because Beam ignores flags it does not know.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from components.artifacts.process import background_thread
from components.contract import code
from components.contract.api import Progress
from components.engines.attempts import finished_counter, start_progress
from components.engines.devices import LOCAL, beam_threads
from vim_core import errors
from vim_core.config import RunConfig
from vim_core.errors import ConfigError, VimError
from vim_core.storage import io

S = TypeVar("S")

PORTABLE = "PortableRunner"
DATAFLOW = "DataflowRunner"
REFUSED = ("DirectRunner", "SwitchingDirectRunner", "PrismRunner")
NEEDED = {
    PORTABLE: ("job_endpoint", "environment_type"),
    DATAFLOW: ("project", "region", "temp_location", "sdk_container_image"),
}
"""Without a job endpoint Beam would start a job server of its own; without a container, workers lack this package."""

DATAFLOW_DEFAULTS = ("--sdk_location=container", "--no_save_main_session")
"""The container holds the SDK and this package: workers download no SDK and unpickle no main session."""

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
    pipeline = make_pipeline(run, build)
    # Beam's local runner logs every error that it raises, each time with the whole traceback.
    muted = _log_level("apache_beam", logging.CRITICAL)
    with _progress(progress, count_done), muted, _process_environment(run):
        try:
            pipeline.run().wait_until_finish()
        except VimError as error:
            raise type(error)(STEP_SUFFIX.sub("", str(error))) from error
        except Exception as error:
            original = vim_error_in(str(error))
            if original is None:
                raise
            raise original from error


def make_pipeline(run: RunConfig, build: Callable[[Any], Any]) -> Any:
    """Beam's pipeline, filled by `build` and not started. Raises `ConfigError` as `run_pipeline` does."""
    import apache_beam as beam

    options = pipeline_options(run)
    try:
        pipeline = beam.Pipeline(runner=run.beam_runner, options=options)
    except ValueError as error:  # Beam's own checks, such as of bucket names
        raise ConfigError(f"run.beam_options={run.beam_options}: {error}") from error
    build(pipeline)
    return pipeline


def run_shards(
    run: RunConfig, shards: Sequence[S], process: Callable[[S], Any], finished: Callable[[S], bool], progress: Progress
) -> None:
    """Process every shard that no earlier attempt finished; the result file is written last."""
    import apache_beam as beam

    left = start_progress(shards, finished, progress)
    if not left:
        return

    def build(pipeline: Any) -> None:
        spread = pipeline | "shards" >> beam.Create(left) | "spread" >> beam.Reshuffle() | same_code()
        _ = spread | "process" >> beam.Map(process)

    run_pipeline(run, build, progress, finished_counter(shards, finished))


def same_code() -> Any:
    """A transform that passes elements on where the process runs the command's code; `CodeError` elsewhere."""
    import apache_beam as beam

    return "same code" >> beam.Map(_passed, code.current())


def _passed(element: S, expected: code.Code) -> S:
    code.check(expected)
    return element


def vim_error_in(text: str) -> VimError | None:
    """The last error of ours in a traceback's text: all that Beam passes on from another process; None without one."""
    matches = VIM_ERROR.findall(text)
    if not matches:
        return None
    name, message = matches[-1]
    original: VimError = getattr(errors, name, VimError)(STEP_SUFFIX.sub("", message))
    return original


@contextlib.contextmanager
def _process_environment(run: RunConfig) -> Iterator[None]:
    """Let the processes that Beam starts meanwhile import this process's code and begin with their share of cores."""
    if run.beam_runner != LOCAL or run.beam_processes <= 1:
        yield
        return
    added = dict.fromkeys(THREAD_VARIABLES, str(beam_threads(run))) | code.child_environment()
    before = {name: os.environ[name] for name in added if name in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]
        os.environ.update(before)


@contextlib.contextmanager
def _log_level(name: str, level: int) -> Iterator[None]:
    """Drop records below this level meanwhile."""
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(level)
    try:
        yield
    finally:
        logger.setLevel(before)


@contextlib.contextmanager
def _progress(progress: Progress | None, count_done: Callable[[], int] | None) -> Iterator[None]:
    """Advance the bar from a thread meanwhile, and once at the end."""
    if progress is None or count_done is None:
        yield
        return

    def poll(stop: threading.Event) -> None:
        pause = POLL_SECONDS
        while not stop.wait(pause):
            began = time.monotonic()
            progress.advance(count_done())
            # A remote store is slow to answer: spend at most a tenth of the time on requests.
            pause = max(POLL_SECONDS, 9 * (time.monotonic() - began))

    with background_thread("beam-progress", poll):
        yield
    progress.advance(count_done())


def pipeline_options(run: RunConfig) -> Any:
    """Beam's options from the settings.

    Raises:
        ConfigError: the runner would start another one, Beam does not know a flag, one is missing, or remote workers
            cannot follow a setting.
    """
    from apache_beam.options.pipeline_options import PipelineOptions

    runner = run.beam_runner
    if runner in REFUSED:
        raise ConfigError(f"run.beam_runner={runner!r}: would download and start another runner; use {LOCAL}")
    _check_flags(run.beam_options)
    # Without flags Beam would read the arguments of the process.
    if runner == LOCAL:
        mode = "multi_processing" if run.beam_processes > 1 else "in_memory"
        workers = max(1, run.beam_processes)
        return PipelineOptions(run.beam_options, direct_num_workers=workers, direct_running_mode=mode)
    defaults = DATAFLOW_DEFAULTS if runner == DATAFLOW else ()
    options = PipelineOptions([*defaults, *run.beam_options])
    _check_remote(run, options.get_all_options())
    return options


def _check_flags(flags: list[str]) -> None:
    """Refuse flags that Beam would ignore."""
    from apache_beam.options.pipeline_options import PipelineOptions

    for flag in flags:
        if not flag.startswith("--") or flag == "--":
            raise ConfigError(f"run.beam_options: {flag!r} is no flag; write each one as --name=value")
    try:
        with _log_level("apache_beam.options.pipeline_options", logging.ERROR):  # it warns of what is refused below
            options = PipelineOptions(flags)
            unknown = set(options.get_all_options(retain_unknown_options=True)) - set(options.get_all_options())
    except SystemExit:  # argparse
        raise ConfigError(f"run.beam_options={flags}: Beam cannot read the value of one of these") from None
    if unknown:
        raise ConfigError(f"run.beam_options: Beam knows no --{min(unknown)}")


def _check_remote(run: RunConfig, options: dict[str, Any]) -> None:
    """Refuse missing flags, and settings that this machine would fill in from itself instead of the workers."""
    runner = run.beam_runner
    for name in NEEDED.get(runner, ()):
        if not options.get(name):
            flags = " ".join(f"--{needed}=…" for needed in NEEDED[runner])
            raise ConfigError(f"run.beam_runner={runner}: run.beam_options lacks --{name}; it needs {flags}")
    if runner == DATAFLOW and not str(options["temp_location"]).startswith("gs://"):
        raise ConfigError(
            f"run.beam_options: --temp_location={options['temp_location']}: Dataflow needs a gs:// folder"
        )
    if runner == DATAFLOW and io.is_local(run.root):
        raise ConfigError(f"run.root={run.root!r}: workers of {runner} cannot reach it; name a bucket, gs://…")
    if run.threads == 0:
        raise ConfigError(f"run.threads=0: the cores of {runner}'s workers are not known here; set the threads of each")
    if run.device == "auto":
        raise ConfigError(f"run.device='auto': the devices of {runner}'s workers are not known here; set cpu or cuda")
