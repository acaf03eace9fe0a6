"""Running a preset's components through Dagster in this process, with the history kept below the root."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

from components import registry
from components.progress import ClosingProgress
from pipelines import history, session
from vim_core.config import PipelineConfig
from vim_core.errors import ConfigError

SILENT = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


def plan(config: PipelineConfig, target: str | None, only: bool = False) -> list[str]:
    """The components to bring up to date, in flow order: all, or `target` and what it needs, or `only` target.

    Raises `ConfigError` for a target that is no component, or not one of this preset.
    """
    if target is None:
        if only:
            raise ConfigError("--only: name the component that shall run, such as `vimctl run prior --only`")
        return registry.in_flow_order(config.components)
    registry.component(target)
    if target not in config.components:
        known = ", ".join(config.components)
        raise ConfigError(f"components: {target} is not in the preset {config.preset}, which has {known}")
    return [target] if only else [*registry.upstream(target, config.components, config), target]


def run(
    config: PipelineConfig, names: list[str], forced: list[str], progress: Callable[[str], ClosingProgress],
) -> session.Session:  # fmt: skip
    """Execute `names`; `forced` ones although their artifact exists. Returns the closed session.

    Raises what a component raises, `KeyboardInterrupt` when interrupted; finished components keep their artifacts.
    """
    run_id = str(uuid.uuid4())
    instance = history.instance(config)
    try:
        current = session.begin(config, progress, run_id)
        try:
            _in_process(current, instance, run_id, names, forced)
        finally:
            current.close()
    finally:
        instance.dispose()
    return current


def _in_process(current: session.Session, instance: Any, run_id: str, names: list[str], forced: list[str]) -> None:
    import dagster

    from pipelines import assets

    definitions = assets.build(current.config, dagster.ResourceDefinition.hardcoded_resource(current))
    options = {"ops": {name: {"config": {"force": True}} for name in forced}}
    try:
        result = definitions.resolve_implicit_global_asset_job_def().execute_in_process(
            run_config={**SILENT, **options},
            instance=instance,
            asset_selection=[dagster.AssetKey(name) for name in names],
            run_id=run_id,
            tags={"vim/preset": current.config.preset},
            raise_on_error=False,
        )
    except dagster.DagsterExecutionInterruptedError as error:
        current.error = error
        raise KeyboardInterrupt from error
    if isinstance(current.error, dagster.DagsterExecutionInterruptedError):
        raise KeyboardInterrupt from current.error
    if current.error is not None:
        raise current.error
    if not result.success:
        reasons = [str(event.message) for event in result.all_events if event.is_failure]
        raise RuntimeError(f"Dagster run {run_id} failed outside the components: {'; '.join(reasons)}")
