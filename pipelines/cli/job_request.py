"""The job spec of a `vimctl submit` command line, the result of a finished job, and the cluster's side, `run_job`."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import tempfile
from argparse import Namespace
from pathlib import Path

from components.artifacts import execute
from components.contract import agreement, code, settings
from components.contract.commands import command, command_context
from pipelines import presets
from pipelines.cli import common, rehearsal, run, sweep
from pipelines.jobs import specs, submission
from pipelines.jobs.api import JobSpec
from pipelines.jobs.profile import Cluster
from pipelines.orchestration import history, session
from pipelines.sweeps import spec as sweeps
from pipelines.sweeps.check import check_sweep
from vim_core.config import PipelineConfig
from vim_core.errors import ConfigError, VimError
from vim_core.storage import io


def build_spec(arguments: Namespace, cluster: Cluster) -> tuple[JobSpec, PipelineConfig]:
    """The spec and its settings. Raises `ConfigError` for options that contradict each other or the preset."""
    target, overrides = common.split_words(arguments.words)
    if arguments.sweep and (target or arguments.start or arguments.only or arguments.force):
        rule = "a sweep runs its points and nothing else; leave out component, --from, --only and --force"
        raise ConfigError(f"--sweep={arguments.sweep}: {rule}")
    chosen = sweeps.load(arguments.sweep) if arguments.sweep else None
    preset = arguments.preset or (chosen.preset if chosen else "") or presets.default()
    explicit = {word.partition("=")[0].removeprefix("run.") for word in overrides if word.startswith("run.")}
    config = submission.settings_on(cluster, presets.load(preset, overrides), explicit)
    if chosen:
        check_sweep(chosen, config)
    places = {
        component: {name: value for name, value in values.items() if name not in explicit}
        for component, values in cluster.components.items()
    }
    spec = JobSpec(
        command="sweep" if chosen else "run", preset=config.preset, settings=settings.to_yaml(config),
        target=target or "", start=arguments.start, only=arguments.only, force=arguments.force,
        sweep=sweeps.to_yaml(chosen) if chosen else "", places=places, cluster=cluster.name,
        code=code.for_others(),
    )  # fmt: skip
    if not chosen:
        agreement.check(config, specs.plan(spec, config)[0])
    return spec, config


def find_result(spec: JobSpec, config: PipelineConfig) -> str:
    """Return the address of a job's result, looked up by manifest; '' if a part of it is missing.

    It is the report and its run in MLflow, or the artifact of one component.
    """
    if spec.command == "sweep":
        name = sweeps.parse(spec.sweep).name
        return f"look at it with `{command('sweep', 'show', name, preset=spec.preset)}`"
    known: execute.ArtifactCache = {}
    try:
        names, _ = specs.plan(spec, config)
        if not all(execute.find(name, config, known) for name in names):
            return ""
        if spec.target and spec.target != "report":
            artifact = known[spec.target]
            return f"{io.absolute(artifact.folder)} · MLflow run {artifact.manifest.mlflow_run_id or 'not delivered'}"
        folder = session.report_folder(config)
        results = io.read_optional(io.join(folder, "results.json"))
    except VimError as error:
        common.print_line(f"whether it is finished cannot be told from here ({error})")
        return ""
    if results is None:
        return io.absolute(folder)
    record = json.loads(results).get("mlflow", {})
    run = record.get("url") or f"run {record.get('run_id')} in {record.get('tracking_uri')}"
    return f"report {io.absolute(io.join(folder, 'report.html'))}" + (f" · MLflow {run}" if record else "")


def run_job(spec_uri: str) -> int:
    """Run the job of a stored spec; the exit status, 1 where points of a sweep failed. Raises what components raise."""
    # Clusters end a job by SIGTERM: it raises KeyboardInterrupt, which releases leases as Ctrl-C does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    spec = specs.read(spec_uri)
    if spec.code is not None:
        code.check(spec.code)
    tags = {**spec.tags, "vim.job": specs.job_id_of(spec_uri), "vim.cluster": spec.cluster}
    config = specs.config_of(spec)
    with contextlib.ExitStack() as stack:
        stack.enter_context(command_context("", root=config.run.root))
        if not io.is_local(config.run.root) and not os.environ.get("DAGSTER_HOME"):
            # For Dagster's history of this job, where the root is remote and the cluster names no folder.
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            Path(folder, "dagster.yaml").write_text(history.SETTINGS, encoding="utf-8")
            os.environ["DAGSTER_HOME"] = folder
        if spec.command == "sweep":
            return sweep.evaluate(sweeps.parse(spec.sweep), config, tags)
        names, forced = specs.plan(spec, config)
        if spec.command == "rehearse":
            root = io.join(config.run.root, ".rehearsals", specs.job_id_of(spec_uri))
            file = io.join(config.run.root, "reports", config.preset, rehearsal.FILE)
            return rehearsal.execute(config, names, config.run.rehearse, root, file, spec.places)
        return run.execute(config, names, forced, spec.start, spec.places, tags)
