"""Dagster's view of a preset: one asset per component, executed in one process; metadata and tags of its runs."""

# No `from __future__ import annotations` here: Dagster reads the annotation of an asset's context as a type.

import base64
import io as memory
import os
import re
from collections.abc import Iterator
from typing import Any

import dagster as dg

from components.artifacts.execute import Result
from components.artifacts.format import HEADLINES
from components.artifacts.gates import gates_of
from components.artifacts.learning import ADVICE
from components.contract import registry
from components.contract.api import Artifact
from components.engines.attempts import is_transient
from components.tracking.pages import run_page, runs_page
from components.tracking.parent import commit_tag, owner_tags
from components.tracking.progress import LineProgress
from components.tracking.tracker import config_fingerprint
from pipelines.orchestration import history, running
from pipelines.orchestration.session import MLFLOW_EXPERIMENT, MLFLOW_URL, Session, begin
from vim_core.config import PipelineConfig
from vim_core.storage import io

FORCE_TAG, FROM_TAG = "vim/force", "vim/from"
ACCELERATED = frozenset({"classify", "selector", "quantize", "prior", "sample", "select", "tradeoff", "probe"})
"""Components that need exclusive use of the accelerator."""
FIRST_PAUSE_S = 5
"""Before the first retry; each further one waits twice as long."""
INLINE_BYTES, SHOWN_SIDE = 300_000, 1024
"""Larger pictures are scaled down to this many pixels a side: each event is stored in Dagster's database."""
REUSE = "*Materialize* brings up to date: what exists with these settings and inputs is reused, and checked again."
MAKE_AGAIN = "To make it again, select it in the job `{}`, or hold Shift on *Materialize* and give `force: true`."
AGAIN = "Makes all of it, or the selected assets, again although they exist: a training takes its whole time."


def build(config: PipelineConfig, run_session: dg.ResourceDefinition | None = None) -> dg.Definitions:
    """Assets, job and executor of a preset. `run_session` gives the `Session`; the default opens one per run.

    With the default, runs take turns on the accelerator through a pool; a given session is that of the only run.
    """
    pool = accelerator_pool(config) if run_session is None else None
    return dg.Definitions(
        assets=[asset(name, config, pool if name in ACCELERATED else None) for name in config.components],
        jobs=[
            dg.define_asset_job(job_name(config), description=f"Brings {config.preset} up to date. {REUSE}"),
            dg.define_asset_job(again_name(config), description=AGAIN, tags={FORCE_TAG: "true"}),
        ],
        resources={"session": run_session or session_resource(config)},
        # The multiprocess executor imports everything again for each component, five seconds a time.
        executor=dg.in_process_executor,
    )


def job_name(config: PipelineConfig) -> str:
    """A Dagster name for the job that runs the whole preset."""
    return "".join(letter if letter.isascii() and letter.isalnum() else "_" for letter in config.preset)


def again_name(config: PipelineConfig) -> str:
    """A Dagster name for the job that makes assets again although they exist."""
    return f"{job_name(config)}_make_again"


def accelerator_pool(config: PipelineConfig) -> str:
    """The pool whose slots are turns on the accelerator."""
    return f"accelerator/{config.run.device}"


def asset(name: str, config: PipelineConfig, pool: str | None = None) -> dg.AssetsDefinition:
    """The asset of one component, with its quality gates as checks that block what depends on it.

    It is made again where its config says `force`, the run's tag `vim/force` is true, or the tag `vim/from` names it or
    something before it. Where a server or node was lost meanwhile, Dagster retries.
    """
    module = registry.component(name)

    @dg.asset(
        name=name,
        deps=registry.nearest_inputs(name, config.components, config),
        required_resource_keys={"session"},
        config_schema={"force": dg.Field(bool, default_value=False, description="Make it again although it exists.")},
        code_version=str(module.VERSION),
        description=describe(_first_line(module.__doc__ or name), config),
        group_name=job_name(config),
        check_specs=[
            dg.AssetCheckSpec(
                gate,
                asset=name,
                blocking=gate not in ADVICE.get(name, {}),
                description=_first_line(rule.__doc__ or gate),
            )
            for gate, rule in gates_of(name).items()
        ],
        pool=pool,
    )
    def component(context: dg.AssetExecutionContext) -> Iterator[dg.MaterializeResult[Any]]:
        current: Session = context.resources.session
        tags = context.run.tags
        start = tags.get(FROM_TAG, "")
        forced = bool(
            context.op_execution_context.op_config["force"]
            or tags.get(FORCE_TAG) == "true"
            or (start and name in registry.downstream(start, config.components, config))
        )
        try:
            result = current.run(name, forced)
        except Exception as error:
            if not is_transient(error) or context.retry_number >= config.run.restarts:
                raise
            current.error = None
            context.log.warning(f"{name}: {error}: trying again")
            pause = FIRST_PAUSE_S * 2**context.retry_number
            raise dg.RetryRequested(config.run.restarts, pause) from error
        failed = current.check_gates(name)
        if failed is not None:
            current.error = failed
        yield dg.MaterializeResult(
            metadata=materialization(result, current),
            data_version=dg.DataVersion(result.artifact.digest),
            check_results=[
                dg.AssetCheckResult(
                    check_name=verdict.gate,
                    passed=verdict.passed,
                    severity=dg.AssetCheckSeverity.ERROR if verdict.blocking else dg.AssetCheckSeverity.WARN,
                    description=verdict.text if verdict.passed else f"{verdict.text}. {verdict.remedy}",
                    metadata=dict(verdict.figures),
                )
                for verdict in current.verdicts[name]
            ],
        )

    return component


def describe(text: str, config: PipelineConfig) -> str:
    """An asset's description, as Markdown: what it is, what a click does, where its runs are in MLflow."""
    server = os.environ.get(MLFLOW_URL) or config.run.tracking_uri
    page = runs_page(server, os.environ.get(MLFLOW_EXPERIMENT, ""))
    link = [f"[Runs in MLflow]({page})"] if page.startswith("http") else []
    return "\n\n".join([text, f"{REUSE} {MAKE_AGAIN.format(again_name(config))}", *link])


def _first_line(text: str) -> str:
    return text.strip().splitlines()[0]


def session_resource(config: PipelineConfig) -> dg.ResourceDefinition:
    """A session opened for each Dagster run and closed at its end."""

    def opened(context: dg.InitResourceContext) -> Iterator[Session]:
        write = context.log.info if context.log is not None else None
        run_id = context.run.run_id if context.run is not None else ""
        if context.instance is not None and run_id:
            context.instance.add_run_tags(run_id, run_tags(config))
        selected = context.run.asset_selection if context.run is not None else None
        planned = [key.to_user_string() for key in selected or ()]
        current = begin(config, lambda name: LineProgress(name, write or (lambda text: None)), run_id, planned=planned)
        try:
            yield current
        finally:
            current.close()

    return dg.ResourceDefinition(opened)


def materialization(result: Result, current: Session) -> dict[str, Any]:
    """Metadata of an asset: headline metrics first, then pictures, links and the rest of the manifest."""
    artifact = result.artifact
    manifest = artifact.manifest
    headlines = [name for name in HEADLINES.get(manifest.component, ()) if name in manifest.metrics]
    others = sorted(set(manifest.metrics) - set(headlines))
    link = mlflow_url(current, manifest.mlflow_run_id)
    report = current.page if manifest.component == "report" else ""
    return {
        **{f"metric/{name}": float(manifest.metrics[name]) for name in headlines},
        **pictures(artifact),
        **({"mlflow": dg.MetadataValue.url(link)} if link else {}),
        **({"report": dg.MetadataValue.path(report)} if report else {}),
        "reused": result.reused,
        "seconds": round(result.seconds, 2),
        "fingerprint": manifest.fingerprint,
        "digest": manifest.digest,
        "folder": dg.MetadataValue.path(artifact.folder),
        "mlflow_run_id": manifest.mlflow_run_id,
        "rows": dg.MetadataValue.json({entry.name: entry.rows for entry in manifest.files if entry.rows is not None}),
        **{f"metric/{name}": float(manifest.metrics[name]) for name in others},
    }


def pictures(artifact: Artifact) -> dict[str, Any]:
    """The newest picture of each kind, inline and perhaps scaled down; the address of one that cannot be drawn."""
    newest = {}
    for entry in sorted(artifact.manifest.files, key=lambda file: file.name):
        if entry.name.endswith(".png"):
            kind = re.sub(r"-\d+$", "", entry.name.removesuffix(".png").removeprefix("pictures/"))
            newest[f"picture/{kind}"] = entry
    values: dict[str, Any] = {}
    for key, entry in newest.items():
        uri = artifact.uri(entry.name)
        png = io.read_bytes(uri)
        if len(png) > INLINE_BYTES:
            png = _scaled_down(png)
        if len(png) > INLINE_BYTES:
            values[key] = dg.MetadataValue.path(uri)
        else:
            data = base64.b64encode(png).decode()
            values[key] = dg.MetadataValue.md(f"![{key}](data:image/png;base64,{data})")
    return values


def _scaled_down(png: bytes) -> bytes:
    """A picture of `SHOWN_SIDE` pixels a side at most, with 256 colours; the same bytes where they are no picture."""
    from PIL import Image, UnidentifiedImageError

    try:
        picture = Image.open(memory.BytesIO(png)).convert("RGB")
    except UnidentifiedImageError:
        return png
    picture.thumbnail((SHOWN_SIDE, SHOWN_SIDE))
    out = memory.BytesIO()
    picture.quantize(256).save(out, "PNG", optimize=True)
    return out.getvalue()


def mlflow_url(current: Session, run_id: str) -> str:
    """The page of an MLflow run, for one in a database where `vimctl ui` shows it; '' where tracking is off."""
    uri = current.tracking.uri
    if uri.startswith("sqlite:"):
        uri = os.environ.get(MLFLOW_URL) or running.mlflow_server(current.config)
    return run_page(uri, current.tracking.experiment_id, run_id)


def run_tags(config: PipelineConfig) -> dict[str, str]:
    """Tags of a Dagster run: its preset and what differs from it; hidden ones on its settings, code and process."""
    hidden = {f"{history.OWNER_PREFIX}fingerprint": config_fingerprint(config), **owner_tags(history.OWNER_PREFIX)}
    commit = next(iter(commit_tag().values()), "")
    hidden |= {f"{history.OWNER_PREFIX}commit": commit} if commit else {}
    changed = {"vim/changed": " ".join(config.run.changed)} if config.run.changed else {}
    return {"vim/preset": config.preset, **changed, **hidden}
