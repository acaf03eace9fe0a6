"""Running a preset's components through Dagster in this process, with the history kept below the root."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from components.contract import registry
from components.contract.commands import command
from components.tracking.progress import ClosingProgress
from pipelines.orchestration import history, session
from pipelines.orchestration.session import Finished, RunOverrides
from vim_core.config import PipelineConfig
from vim_core.errors import ConfigError

if TYPE_CHECKING:
    from dagster import InitResourceContext, ResourceDefinition

TIMELINE_TAGS = {history.REPOSITORY_TAG: f"{history.REPOSITORY}@{history.LOCATION}"}
SILENT = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


def plan(config: PipelineConfig, target: str | None, only: bool = False, start: str = "") -> list[str]:
    """The components to bring up to date, in flow order: all, or `target` and what it needs, or `only` target.

    With `start`, these are `start`, what is made from it on the way to `target`, and what those need.

    Raises:
        ConfigError: a target that is no component, or not one of this preset; one that is not made from `start`.
    """
    components, names = config.components, [name for name in (start or None, target) if name is not None]
    if not names:
        if only:
            raise ConfigError(
                f"--only: name the component that shall run, such as `{command('run', 'prior', '--only')}`"
            )
        return registry.in_flow_order(components)
    for name in names:
        registry.component(name)
        if name not in components:
            known = ", ".join(components)
            raise ConfigError(f"components: {name} is not in the preset {config.preset}, which has {known}")
    if only and start:
        raise ConfigError(f"--only and --from={start}: one says a single component, the other says several; give one")
    if only:
        return names
    wanted = registry.downstream(start, components, config) if start else names
    if start and target is not None:
        if target not in wanted:
            made = ", ".join(wanted[1:]) or "none"
            raise ConfigError(f"--from={start}: {target} is not made from {start}; those are {made}")
        wanted = [name for name in wanted if name in {target, *registry.upstream(target, components, config)}]
    needed = {source for name in wanted for source in registry.upstream(name, components, config)}
    return registry.in_flow_order(needed | set(wanted))


def run(
    config: PipelineConfig, names: list[str], forced: list[str], progress: Callable[[str], ClosingProgress],
    run_overrides: RunOverrides = MappingProxyType({}), tags: Mapping[str, str] = MappingProxyType({}), start: str = "",
    finished: Finished = lambda name, result: None,
) -> session.Session:  # fmt: skip
    """Execute `names`; `forced` ones, and all from `start` on, although they exist. Returns the closed session.

    `run_overrides` are fields of `run` by component, `tags` those of the run in MLflow and Dagster, such as the
    cluster's job; `finished` is called with each component and its result.

    Raises:
        GateError: an artifact fails a quality gate; what is made from it was not started.
        KeyboardInterrupt: when interrupted; finished components keep their artifacts.
        VimError: or another error, as a component raises it.
    """
    import dagster
    from sqlalchemy.exc import OperationalError

    from pipelines.orchestration import assets

    remade = registry.downstream(start, config.components, config) if start else []
    options = {"ops": {name: {"config": {"force": True}} for name in names if name in {*forced, *remade}}}
    run_id = str(uuid.uuid4())
    with (
        history.instance(config) as instance,
        contextlib.closing(session.begin(config, progress, run_id, run_overrides, tags, names, finished)) as current,
    ):
        definitions = assets.build(config, _shown_session(current))
        try:
            result = definitions.resolve_implicit_global_asset_job_def().execute_in_process(
                run_config={**SILENT, **options},
                instance=instance,
                asset_selection=[dagster.AssetKey(name) for name in names],
                run_id=run_id,
                tags={**assets.run_tags(config), **TIMELINE_TAGS, **tags},
                raise_on_error=False,
            )
        except dagster.DagsterExecutionInterruptedError as error:
            current.error = error
            raise KeyboardInterrupt from error
        except OperationalError as error:
            current.error = error
            raise history.unusable(config, error) from error
        if isinstance(current.error, dagster.DagsterExecutionInterruptedError):
            raise KeyboardInterrupt from current.error
        if current.error is not None:
            raise current.error
        if not result.success:
            reasons = [str(event.message) for event in result.all_events if event.is_failure]
            raise RuntimeError(f"Dagster run {run_id} failed outside the components: {'; '.join(reasons)}")
    return current


def _shown_session(current: session.Session) -> ResourceDefinition:
    """The session as a resource, whose opening puts the Dagster run on the timeline."""
    import dagster

    def opened(context: InitResourceContext) -> session.Session:
        if context.instance is not None and context.run is not None:
            history.show_on_timeline(context.instance, context.run)
        return current

    return dagster.ResourceDefinition(opened)
