"""Beam's runner and options from the settings, checked before anything starts: Beam ignores flags it does not know.

`FnApiRunner` works here, in memory or in several processes. `PortableRunner` needs a job server, `DataflowRunner` a
project, a region, a bucket and a container with this package; both get their flags from `run.beam_options`.
"""

from __future__ import annotations

import logging
from typing import Any

from vim_core.config import RunConfig
from vim_core.errors import ConfigError
from vim_core.storage import io

LOCAL = "FnApiRunner"
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


def runner_name(run: RunConfig) -> str:
    """The name of Beam's runner.

    Raises:
        ConfigError: it would download and start another runner.
    """
    if run.beam_runner in REFUSED:
        raise ConfigError(f"run.beam_runner={run.beam_runner!r}: would download and start another runner; use {LOCAL}")
    return run.beam_runner


def pipeline_options(run: RunConfig) -> Any:
    """Beam's options from the settings.

    Raises:
        ConfigError: Beam does not know a flag, one is missing, or remote workers cannot follow a setting.
    """
    from apache_beam.options.pipeline_options import PipelineOptions

    runner = runner_name(run)
    _check_flags(run.beam_options)
    # Without flags Beam would read the arguments of the process.
    if runner == LOCAL:
        mode = "multi_processing" if run.beam_processes > 1 else "in_memory"
        processes = max(1, run.beam_processes)
        return PipelineOptions(run.beam_options, direct_num_workers=processes, direct_running_mode=mode)
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
    logger = logging.getLogger("apache_beam.options.pipeline_options")
    level = logger.level
    logger.setLevel(logging.ERROR)  # it warns of the very flags that are refused below
    try:
        options = PipelineOptions(flags)
        unknown = set(options.get_all_options(retain_unknown_options=True)) - set(options.get_all_options())
    except SystemExit:  # argparse
        raise ConfigError(f"run.beam_options={flags}: Beam cannot read the value of one of these") from None
    finally:
        logger.setLevel(level)
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
