"""Runs a job on its cluster: reads the stored spec and runs its components or sweep."""

from __future__ import annotations

import contextlib
import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from pipelines.jobs import specs
from pipelines.jobs.api import JobSpec
from pipelines.orchestration import history
from vim_core.config import PipelineConfig
from vim_core.storage import io


def run(spec_uri: str) -> int:
    """Run the job of a stored spec; the exit status, 1 where points of a sweep failed. Raises what components raise."""
    # Clusters end a job by SIGTERM: it releases its leases, like a run that was interrupted by hand.
    signal.signal(signal.SIGTERM, _interrupt)
    spec = specs.read(spec_uri)
    tags = {**spec.tags, "vim.job": specs.job_id_of(spec_uri), "vim.cluster": spec.cluster}
    config = specs.config_of(spec)
    with _dagster_home(config):
        return (_run_sweep if spec.command == "sweep" else _run_components)(spec, config, tags)


def _run_components(spec: JobSpec, config: PipelineConfig, tags: dict[str, str]) -> int:
    from pipelines.cli import run

    names, forced = specs.plan(spec, config)
    return run.execute(config, names, forced, spec.start, spec.places, tags)


def _run_sweep(spec: JobSpec, config: PipelineConfig, tags: dict[str, str]) -> int:
    from pipelines.cli import sweep
    from pipelines.sweeps import spec as sweeps

    return sweep.evaluate(sweeps.parse(spec.sweep), config, tags)


@contextlib.contextmanager
def _dagster_home(config: PipelineConfig) -> Iterator[None]:
    """A folder for Dagster's history of this job, where the root is remote and the cluster names none."""
    if io.is_local(config.run.root) or os.environ.get("DAGSTER_HOME"):
        yield
        return
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "dagster.yaml").write_text(history.SETTINGS, encoding="utf-8")
        os.environ["DAGSTER_HOME"] = folder
        yield


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
