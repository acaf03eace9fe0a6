"""Dagster's view of a preset: one asset per component, executed in one process."""

# No `from __future__ import annotations` here: Dagster reads the annotation of an asset's context as a type.

from collections.abc import Iterator
from typing import Any

import dagster as dg

from components import registry
from components.execute import Result
from components.progress import LineProgress
from pipelines import session
from vim_core.config import PipelineConfig

FORCE_TAG = "vim/force"


def build(config: PipelineConfig, run_session: dg.ResourceDefinition | None = None) -> dg.Definitions:
    """Assets, job and executor of a preset. `run_session` gives the `Session`; the default opens one per run."""
    return dg.Definitions(
        assets=[asset(name, config) for name in config.components],
        jobs=[dg.define_asset_job(job_name(config), description=f"Everything of the preset {config.preset}.")],
        resources={"session": run_session or own_session(config)},
        # The multiprocess executor imports everything again for each component, five seconds a time.
        executor=dg.in_process_executor,
    )


def job_name(config: PipelineConfig) -> str:
    """A Dagster name for the job that runs the whole preset."""
    return "".join(letter if letter.isalnum() else "_" for letter in config.preset)


def asset(name: str, config: PipelineConfig) -> dg.AssetsDefinition:
    """The asset of one component. Set `force` in its config, or the tag `vim/force`, to make it again."""
    module = registry.component(name)

    @dg.asset(
        name=name,
        deps=sorted(set(registry.inputs_of(name, config.components, config).values())),
        required_resource_keys={"session"},
        config_schema={"force": dg.Field(bool, default_value=False, description="Make it again although it exists.")},
        code_version=str(module.VERSION),
        description=(module.__doc__ or name).strip().splitlines()[0],
        group_name=job_name(config),
    )
    def component(context: dg.AssetExecutionContext) -> dg.MaterializeResult[Any]:
        force = context.op_execution_context.op_config["force"] or context.run.tags.get(FORCE_TAG) == "true"
        result = context.resources.session.run(name, force)
        return dg.MaterializeResult(metadata=metadata(result), data_version=dg.DataVersion(result.artifact.digest))

    return component


def metadata(result: Result) -> dict[str, Any]:
    """What Dagster shows of a materialization."""
    manifest = result.artifact.manifest
    return {
        "reused": result.reused,
        "seconds": round(result.seconds, 2),
        "fingerprint": manifest.fingerprint,
        "digest": manifest.digest,
        "folder": dg.MetadataValue.path(result.artifact.folder),
        "mlflow_run_id": manifest.mlflow_run_id,
        "rows": dg.MetadataValue.json({entry.name: entry.rows for entry in manifest.files if entry.rows is not None}),
        **{f"metric/{key}": float(value) for key, value in manifest.metrics.items()},
    }


def own_session(config: PipelineConfig) -> dg.ResourceDefinition:
    """A session opened for each Dagster run and closed at its end."""

    def opened(context: dg.InitResourceContext) -> Iterator[session.Session]:
        write = context.log.info if context.log is not None else None
        run_id = context.run.run_id if context.run is not None else ""
        current = session.begin(config, lambda name: LineProgress(name, write or (lambda text: None)), run_id)
        try:
            yield current
        finally:
            current.close()

    return dg.ResourceDefinition(opened)
