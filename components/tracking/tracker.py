"""One MLflow run per pipeline run, a child per component; an unavailable server delays nothing."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from components.artifacts.process import background_thread
from components.contract import registry
from components.contract.api import Artifact, Tracker
from components.contract.fingerprint import result_settings
from components.tracking import describe, models
from components.tracking.link import BATCH_ROWS, Link, ServerAway, ServerRefused
from components.tracking.node_metrics import SYSTEM, Sampler, queue_writer
from components.tracking.pages import NOTE
from components.tracking.parent import (
    ParentTracker,
    final_status,
    heartbeat_tag,
    is_owner_gone,
    owner_tags,
    source_tags,
)
from components.tracking.run import MlflowRun, QueuedRun
from components.tracking.shipping import CURVES, NONFINITE, PICTURES, FaultLog, rows_of
from vim_core.config import PipelineConfig, TrainConfig
from vim_core.storage import io
from vim_core.training import spool

RUN_ID_FILE = "mlflow_run_id"
BEAT_S = 30.0
DRIVER = "node-0"


class PipelineTracker(ParentTracker):
    """The MLflow side of one pipeline run; made by `open_run`."""

    def __init__(self, config: PipelineConfig, tags: Mapping[str, str], link: Link | None = None) -> None:
        self._fingerprint = config_fingerprint(config)
        super().__init__(config, describe.title(config.preset, config.run.changed), link)
        self._given_tags = tags
        self._running: dict[str, MlflowRun] = {}
        self._artifacts: dict[str, tuple[Artifact, bool]] = {}
        self._page = ""
        self._over = threading.Event()

    def start(self) -> None:
        """Make the parent run, or continue an interrupted one of the same settings; keep its heartbeat going."""
        super().start()
        if self.uri:
            threading.Thread(target=self._beat, name="mlflow-beat", daemon=True).start()

    @contextlib.contextmanager
    def component(self, name: str, fingerprint: str, work: str) -> Iterator[Tracker]:
        """The child run of a component that is about to run; an earlier attempt's run in `work` is continued."""
        note = io.join(work, RUN_ID_FILE)
        known_id = io.read_bytes(note).decode() if io.exists(note) else ""
        over = threading.Event()

        def opened(run_id: str) -> None:
            # The work folder is removed when the component has ended, and must not be created again.
            if not over.is_set():
                io.write_bytes(note, run_id.encode())

        tags = self._component_tags(name, fingerprint)
        run = self._child(name, tags, known_id, opened, describe.component_title(name, self._config))
        self._log_settings(run, result_settings(getattr(self._config, name)))
        # A run id that is there in time enters the artifact's manifest.
        self._queue.wait(self.START_S)
        try:
            with self._sampler(run):
                yield QueuedRun(run, self._queue)
        except BaseException as error:
            status = final_status(error)
            self._queue.add(f"the end of {name}", lambda: run.end(status))
            raise
        finally:
            over.set()
        self._running[name] = run

    def finished(self, name: str, artifact: Artifact, reused: bool) -> None:
        """Log a component's artifact, or note in the parent that it existed already."""
        manifest, run = artifact.manifest, self._running.pop(name, None)
        if run is not None and not reused:
            self._log_artifact(run, artifact)
        else:
            if run is not None:
                self._queue.add(f"the end of {name}", lambda: run.end("KILLED"))
            text = f"{manifest.fingerprint} run {manifest.mlflow_run_id or '-'}"
            self._queue.add(f"the reuse of {name}", lambda: self._parent.tag({f"reused.{name}": text}))
            self._queue.add(f"the run of {name}", lambda: self._complete(artifact))
        self._artifacts[name] = (artifact, reused)
        # The parent's columns and description: one row of the experiment says how a run went.
        highlights, created_ms = describe.highlights([artifact]), describe.created_ms(artifact)
        if highlights:
            self._queue.add(f"the headlines of {name}", lambda: self._parent.metrics(0, highlights, created_ms))
        self._describe()
        if self._config.run.register and name in models.KINDS:
            self._queue.add(f"the model of {name}", lambda: self._register(artifact, run))

    def report(self, page: str) -> None:
        """Link the run's report, a path or URI, in the run's description."""
        self._page = page
        self._describe()

    def close(self, status: str) -> None:
        """End the parent run; what is queued gets a few seconds to be delivered."""
        self._over.set()
        super().close(status)

    @functools.cached_property
    def _context_tags(self) -> dict[str, str]:
        """Tags of the parent and of its children."""
        tags = {"vim.preset": self._config.preset, **source_tags("vimctl run")}
        return {**tags, **describe.job_tag(), **self._given_tags}

    def _tags(self) -> dict[str, str]:
        kind = {"vim.kind": "pipeline", "vim.fingerprint": self._fingerprint}
        return {**kind, **self._context_tags, **owner_tags()}

    def _component_tags(self, name: str, fingerprint: str) -> dict[str, str]:
        kind = {"vim.kind": "component", "vim.component": name, "vim.fingerprint": fingerprint}
        return {**kind, **self._context_tags}

    def _begin(self) -> None:
        """Open the newest run of the same settings where it was cut short and its process is gone, else a new one."""
        newest = self._newest_run(f"tags.`vim.fingerprint` = '{self._fingerprint}' and tags.`vim.kind` = 'pipeline'")
        if newest and newest.info.status in ("RUNNING", "KILLED") and is_owner_gone(newest.data.tags):
            self._parent.known_id = str(newest.info.run_id)
        self._parent.open()

    def _log_settings(self, run: MlflowRun, settings: Mapping[str, Any]) -> None:
        """The settings that were chosen as parameters, all of them as a file."""
        name = run.name

        def log_params() -> None:
            run.params(describe.changed_settings(name, settings, registry.component(name).VERSION))

        self._queue.add(f"the parameters of {name}", log_params)
        self._queue.add(f"the settings of {name}", lambda: run.text(describe.SETTINGS, json.dumps(settings, indent=1)))

    def _describe(self) -> None:
        text = describe.pipeline_description(self._config.preset, self._artifacts, self._page)
        self._queue.add("the description", lambda: self._parent.tag({NOTE: text}))

    def _register(self, artifact: Artifact, run: MlflowRun | None) -> None:
        """Make the network a version of its registered model."""
        run_ids = (run.run_id if run else "", artifact.manifest.mlflow_run_id, self.run_id)
        try:
            self._link.call(lambda client: models.register(client, self._config.preset, artifact, run_ids))
        except ServerAway as error:
            cause = error.__cause__
            # No answer at all: MLflow's client words a connection that failed so, and has no class for it.
            if cause is None or isinstance(cause, OSError) or "exception" in str(cause):
                raise
            # A server whose registry fails must not hold up what comes after.
            self._link.refuse(error)

    def _log_artifact(self, run: MlflowRun, artifact: Artifact) -> None:
        """Queue what is known at the end of a component's run, and the end."""
        name, manifest = run.name, artifact.manifest
        tags = {
            "vim.digest": artifact.digest, "vim.artifact": artifact.folder, "vim.numeric": json.dumps(manifest.numeric),
            NOTE: describe.component_description(artifact),
        }  # fmt: skip
        finals = {f"final/{key}": value for key, value in describe.main_figures(manifest.metrics).items()}
        self._queue.add(f"the tags of {name}", lambda: run.tag(tags))
        self._queue.add(f"the figures of {name}", lambda: run.metrics(0, finals, describe.created_ms(artifact)))
        blocks = describe.block_rows(artifact)
        if blocks:
            self._queue.add(f"the blocks of {name}", lambda: run.rows(blocks))
        if manifest.inputs:
            root = self._config.run.root
            self._queue.add(f"the inputs of {name}", lambda: run.datasets(root, manifest.inputs))
        if run.incomplete:
            # Otherwise a server that answers again would count the run as complete.
            self._queue.add(f"the rest of the curves of {name}", lambda: deliver_missing(run, artifact))
        self._queue.add(f"the end of {name}", lambda: run.end("FINISHED"))

    def _complete(self, artifact: Artifact) -> None:
        """Deliver the entries that an unavailable server missed when this artifact was made. Raises `ServerAway`."""
        name, manifest = artifact.manifest.component, artifact.manifest
        run_id, fingerprint = manifest.mlflow_run_id, manifest.fingerprint
        if run_id:
            try:
                complete = self._link.call(lambda client: client.get_run(run_id).info.status) == "FINISHED"
            except ServerRefused:  # a run that this server does not know is another server's, which has it
                complete = True
        else:
            query = f"tags.`vim.digest` = '{artifact.digest}' and tags.`vim.fingerprint` = '{fingerprint}'"
            complete = self._newest_run(f"{query} and attributes.status = 'FINISHED'") is not None
        if complete:
            return
        tags = self._component_tags(name, fingerprint)
        run = self._child(name, tags, run_id, title=describe.component_title(name, self._config))
        run.incomplete = True
        self._log_settings(run, manifest.config)
        self._log_artifact(run, artifact)

    def _sampler(self, run: MlflowRun) -> contextlib.AbstractContextManager[object]:
        """Samples this machine into the run meanwhile, if configured and no training samples its own nodes."""
        training = isinstance(getattr(self._config, run.name), TrainConfig)
        if training or not self._config.run.system_metrics or not self.uri:
            return contextlib.nullcontext()
        label = f"the system metrics of {run.name}"
        sampler = Sampler(DRIVER, queue_writer(run, lambda act: self._queue.add(label, act)))
        return background_thread("node-samples", sampler.run)

    def _beat(self) -> None:
        while not self._over.wait(BEAT_S):
            # Not queued: with a delayed heartbeat this process would count as dead.
            if self.run_id:
                with contextlib.suppress(ServerAway):
                    self._parent.tag(heartbeat_tag())


def deliver_missing(run: MlflowRun, artifact: Artifact) -> None:
    """Deliver from an artifact the points, pictures and skipped updates that its run lacks. Raises `ServerAway`."""
    names = [entry.name for entry in artifact.manifest.files]
    faults = FaultLog()
    for name, key in ((CURVES, "m"), (NONFINITE, "nonfinite"), (SYSTEM, "m")):
        if name in names:
            rows = rows_of(
                [entry for entry in spool.parse_rows(io.read_bytes(artifact.uri(name))) if key in entry], faults
            )
            for start in range(0, len(rows), BATCH_ROWS):
                run.new_rows(rows[start : start + BATCH_ROWS])
    skipped = faults.due(now=True)
    if skipped:
        run.text(NONFINITE, skipped)
    for name in names:
        folder, _, picture = name.partition("/")
        if folder == PICTURES and picture.endswith(".png"):
            run.image(picture.removesuffix(".png"), io.read_bytes(artifact.uri(name)))


def config_fingerprint(config: PipelineConfig) -> str:
    """20 hex digits over all settings that change a result."""
    return hashlib.sha256(json.dumps(result_settings(config), sort_keys=True).encode()).hexdigest()[:20]


def untracked(config: PipelineConfig) -> PipelineTracker:
    """A tracker that is off, whatever `run.tracking_uri` says."""
    return PipelineTracker(replace(config, run=replace(config.run, tracking_uri="off")), {})


def open_run(
    config: PipelineConfig, tags: Mapping[str, str] | None = None, link: Link | None = None
) -> PipelineTracker:
    """Begin tracking a pipeline run; end it with `close(status)`. Raises `ConfigError` for a contradictory address."""
    tracker = PipelineTracker(config, tags or {}, link)
    tracker.start()
    return tracker
