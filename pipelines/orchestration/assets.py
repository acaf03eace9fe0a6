"""Dagster's view of a preset: one asset per component, executed in one process."""

# No `from __future__ import annotations` here: Dagster reads the annotation of an asset's context as a type.

from collections.abc import Iterator
from typing import Any

import dagster as dg

from components.artifacts.execute import Result
from components.contract import registry
from components.engines.transient_errors import is_transient
from components.tracking.progress import LineProgress
from pipelines.orchestration import checks, metadata, session
from vim_core.config import PipelineConfig

FORCE_TAG, FROM_TAG = "vim/force", "vim/from"
ACCELERATED = frozenset({"classify", "selector", "quantize", "prior", "sample", "select", "tradeoff", "probe"})
"""Components that want the accelerator for themselves."""
FIRST_WAIT_S = 5


def build(config: PipelineConfig, run_session: dg.ResourceDefinition | None = None) -> dg.Definitions:
    """Assets, job and executor of a preset. `run_session` gives the `Session`; the default opens one per run.

    Runs with a session of their own take turns on the accelerator; whoever brings one is asked by nobody to wait.
    """
    pool = accelerator_pool(config) if run_session is None else None
    return dg.Definitions(
        assets=[asset(name, config, pool if name in ACCELERATED else None) for name in config.components],
        jobs=[dg.define_asset_job(job_name(config), description=f"Everything of the preset {config.preset}.")],
        resources={"session": run_session or own_session(config)},
        # The multiprocess executor imports everything again for each component, five seconds a time.
        executor=dg.in_process_executor,
    )


def job_name(config: PipelineConfig) -> str:
    """A Dagster name for the job that runs the whole preset."""
    return "".join(letter if letter.isalnum() else "_" for letter in config.preset)


def accelerator_pool(config: PipelineConfig) -> str:
    """The pool whose slots are turns on the accelerator."""
    return f"accelerator/{config.run.device}"


def asset(name: str, config: PipelineConfig, pool: str | None = None) -> dg.AssetsDefinition:
    """The asset of one component with its quality gates.

    It is made again where its config says `force`, the run's tag `vim/force` is true, or the tag `vim/from` names it or
    something before it.
    """
    module = registry.component(name)

    @dg.asset(
        name=name,
        deps=sorted(set(registry.inputs_of(name, config.components, config).values())),
        required_resource_keys={"session"},
        config_schema={"force": dg.Field(bool, default_value=False, description="Make it again although it exists.")},
        code_version=str(module.VERSION),
        description=(module.__doc__ or name).strip().splitlines()[0],
        group_name=job_name(config),
        check_specs=checks.specs(name),
        pool=pool,
    )
    def component(context: dg.AssetExecutionContext) -> Iterator[dg.MaterializeResult[Any]]:
        current: session.Session = context.resources.session
        result = _made(context, current, name, config)
        refused = current.judge(name)
        if refused is not None:
            current.error = refused
        yield dg.MaterializeResult(
            metadata=metadata.of_result(result, current),
            data_version=dg.DataVersion(result.artifact.digest),
            check_results=checks.results(current.verdicts[name]),
        )

    return component


def _made(context: dg.AssetExecutionContext, current: session.Session, name: str, config: PipelineConfig) -> Result:
    """The component's artifact; where a server or node was lost meanwhile, Dagster is asked to try again."""
    try:
        return current.run(name, _forced(context, name, config))
    except Exception as error:
        if not is_transient(error) or context.retry_number >= config.run.restarts:
            raise
        current.error = None
        context.log.warning(f"{name}: {error}: trying again")
        wait = FIRST_WAIT_S * 2**context.retry_number
        raise dg.RetryRequested(config.run.restarts, wait) from error


def _forced(context: dg.AssetExecutionContext, name: str, config: PipelineConfig) -> bool:
    tags = context.run.tags
    start = tags.get(FROM_TAG, "")
    return bool(
        context.op_execution_context.op_config["force"]
        or tags.get(FORCE_TAG) == "true"
        or (start and name in registry.downstream(start, config.components, config))
    )


def own_session(config: PipelineConfig) -> dg.ResourceDefinition:
    """A session opened for each Dagster run and closed at its end."""

    def opened(context: dg.InitResourceContext) -> Iterator[session.Session]:
        write = context.log.info if context.log is not None else None
        run_id = context.run.run_id if context.run is not None else ""
        if context.instance is not None and run_id:
            context.instance.add_run_tags(run_id, metadata.run_tags(config))
        current = session.begin(config, lambda name: LineProgress(name, write or (lambda text: None)), run_id)
        try:
            yield current
        finally:
            current.close()

    return dg.ResourceDefinition(opened)
