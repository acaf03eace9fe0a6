"""The job spec of a `vimctl submit` command line, and the result of a job that is finished."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Callable

from components.artifacts import execute
from components.contract import settings
from pipelines import presets
from pipelines.cli import common
from pipelines.jobs import specs, submission
from pipelines.jobs.api import JobSpec
from pipelines.jobs.profile import Cluster
from pipelines.orchestration import session
from vim_core.config import PipelineConfig
from vim_core.errors import ConfigError, VimError
from vim_core.storage import io


def build_spec(arguments: Namespace, cluster: Cluster) -> tuple[JobSpec, PipelineConfig]:
    """The spec and its settings. Raises `ConfigError` for options that contradict each other or the preset."""
    target, overrides = common.split_words(arguments.words)
    sweep, preset = _sweep(arguments, target)
    explicit = {word.partition("=")[0].removeprefix("run.") for word in overrides if word.startswith("run.")}
    loaded = presets.load(arguments.preset or preset or presets.default(), overrides)
    config = submission.settings_on(cluster, loaded, explicit)
    places = {
        component: {name: value for name, value in values.items() if name not in explicit}
        for component, values in cluster.components.items()
    }
    spec = JobSpec(
        command="sweep" if sweep else "run", preset=config.preset, settings=settings.to_yaml(config),
        target=target or "", start=arguments.start, only=arguments.only, force=arguments.force, sweep=sweep,
        places=places, cluster=cluster.name,
    )  # fmt: skip
    if not sweep:
        specs.plan(spec, config)
    return spec, config


def finished_result(spec: JobSpec, config: PipelineConfig, say: Callable[[str], None]) -> str:
    """Return the address of a complete result; '' if a part is missing or is to be made again."""
    if spec.command != "run" or spec.start or spec.force:
        return ""
    return find_result(spec, config, say)


def find_result(spec: JobSpec, config: PipelineConfig, say: Callable[[str], None]) -> str:
    """Return the address of a job's result, looked up by manifest; '' if a part of it is missing."""
    if spec.command == "sweep":
        return "look at it with `vimctl sweep show`"
    known: execute.ArtifactCache = {}
    try:
        names, _ = specs.plan(spec, config)
        return _describe_result(spec, config, known) if all(execute.find(name, config, known) for name in names) else ""
    except VimError as error:
        say(f"whether it is finished cannot be told from here ({error})")
        return ""


def _describe_result(spec: JobSpec, config: PipelineConfig, known: execute.ArtifactCache) -> str:
    """Return the addresses of a job's result: the report and its run in MLflow, or the artifact of one component."""
    if spec.target and spec.target != "report":
        artifact = known[spec.target]
        return f"{io.absolute(artifact.folder)} · MLflow run {artifact.manifest.mlflow_run_id or 'not delivered'}"
    folder = session.report_folder(config)
    try:
        record = json.loads(io.read_bytes(io.join(folder, "results.json"))).get("mlflow", {})
    except FileNotFoundError:
        return io.absolute(folder)
    run = record.get("url") or f"run {record.get('run_id')} in {record.get('tracking_uri')}"
    return f"report {io.absolute(io.join(folder, 'report.html'))}" + (f" · MLflow {run}" if record else "")


def _sweep(arguments: Namespace, target: str | None) -> tuple[str, str]:
    """The sweep of `--sweep` as YAML and its preset; both '' without one."""
    if not arguments.sweep:
        return "", ""
    if target or arguments.start or arguments.only or arguments.force:
        rule = "a sweep runs its points and nothing else; leave out component, --from, --only and --force"
        raise ConfigError(f"--sweep={arguments.sweep}: {rule}")
    from pipelines.sweeps import spec as sweeps

    sweep = sweeps.load(arguments.sweep)
    return sweeps.to_yaml(sweep), sweep.preset
