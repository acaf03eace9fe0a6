"""Runs a job on its cluster: reads the stored spec and runs its components or sweep."""

from __future__ import annotations

import contextlib
import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

from pipelines.jobs import specs
from pipelines.orchestration import history
from vim_core.config import PipelineConfig
from vim_core.storage import io


def run_job(spec_uri: str) -> int:
    """Run the job of a stored spec; the exit status, 1 where points of a sweep failed. Raises what components raise."""
    from pipelines.cli import run, sweep
    from pipelines.sweeps import spec as sweeps

    # Clusters end a job by SIGTERM: it raises KeyboardInterrupt, which releases leases as Ctrl-C does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    spec = specs.read(spec_uri)
    tags = {**spec.tags, "vim.job": specs.job_id_of(spec_uri), "vim.cluster": spec.cluster}
    config = specs.config_of(spec)
    with _dagster_home(config):
        if spec.command == "sweep":
            return sweep.evaluate(sweeps.parse(spec.sweep), config, tags)
        names, forced = specs.plan(spec, config)
        return run.execute(config, names, forced, spec.start, spec.places, tags)


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
