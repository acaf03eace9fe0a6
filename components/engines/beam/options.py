"""Which runner Beam uses and what it is told: checked before anything starts, as Beam ignores what it does not know.

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
"""The container holds the SDK and this package: nothing is to be fetched from a registry, nothing to be unpickled."""


def runner_of(run: RunConfig) -> str:
    """The runner's name.

    Raises:
        ConfigError: it would start another one.
    """
    if run.beam_runner in REFUSED:
        raise ConfigError(f"run.beam_runner={run.beam_runner!r}: would download and start another runner; use {LOCAL}")
    return run.beam_runner


def options_of(run: RunConfig) -> Any:
    """Beam's options from the settings.

    Raises:
        ConfigError: a flag that Beam does not know, or a missing one; a setting that remote workers cannot follow.
    """
    from apache_beam.options.pipeline_options import PipelineOptions

    runner = runner_of(run)
    _check_known(run.beam_options)
    # Flags are always given: Beam would read the arguments of the process otherwise.
    if runner == LOCAL:
        mode = "multi_processing" if run.beam_processes > 1 else "in_memory"
        processes = max(1, run.beam_processes)
        return PipelineOptions(run.beam_options, direct_num_workers=processes, direct_running_mode=mode)
    own = DATAFLOW_DEFAULTS if runner == DATAFLOW else ()
    options = PipelineOptions([*own, *run.beam_options])
    _check_needed(runner, options)
    _check_remote(run, runner)
    return options


def _check_known(flags: list[str]) -> None:
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


def _check_needed(runner: str, options: Any) -> None:
    known = options.get_all_options()
    for name in NEEDED.get(runner, ()):
        if not known.get(name):
            flags = " ".join(f"--{each}=…" for each in NEEDED[runner])
            raise ConfigError(f"run.beam_runner={runner}: run.beam_options lacks --{name}; it needs {flags}")
    if runner == DATAFLOW and not str(known["temp_location"]).startswith("gs://"):
        raise ConfigError(f"run.beam_options: --temp_location={known['temp_location']}: Dataflow needs a gs:// folder")


def _check_remote(run: RunConfig, runner: str) -> None:
    """What this machine finds out about itself says nothing of workers elsewhere."""
    if runner == DATAFLOW and io.is_local(run.root):
        raise ConfigError(f"run.root={run.root!r}: workers of {runner} cannot reach it; name a bucket, gs://…")
    if run.threads == 0:
        raise ConfigError(f"run.threads=0: the cores of {runner}'s workers are not known here; set the threads of each")
    if run.device == "auto":
        raise ConfigError(f"run.device='auto': the devices of {runner}'s workers are not known here; set cpu or cuda")
