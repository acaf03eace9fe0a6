"""One MLflow run per pipeline run, a child per component; a dead server delays nothing."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from components.contract import registry
from components.contract.api import Artifact, Tracker
from components.contract.fingerprint import settings_of
from components.tracking import backfill, describe, models
from components.tracking import inputs as mlflow_inputs
from components.tracking.deliveries import Deliveries
from components.tracking.link import Link, ServerAway, ServerRefused, artifact_location, silent, tracking_uri
from components.tracking.node_samples import Sampler, driver
from components.tracking.off import NoTracking
from components.tracking.owner import beat_tag, commit_tag, owner_gone, owner_tags
from components.tracking.run import MlflowRun
from vim_core.config import PipelineConfig, TrainConfig
from vim_core.storage import io

log = logging.getLogger(__name__)

RUN_ID_FILE = "mlflow_run_id"
BEAT_S = 30.0
FLUSH_S = 5.0
SETTLE_S = 2.0
PARENT = "mlflow.parentRunId"
DRIVER = "node-0"


class PipelineTracking:
    """The MLflow side of one pipeline run; made by `open_run`."""

    def __init__(self, config: PipelineConfig, link: Link, tags: Mapping[str, str]) -> None:
        self._config, self._link = config, link
        self._open: dict[str, MlflowRun] = {}
        self._deliveries = Deliveries()
        self._runs: list[MlflowRun] = []
        self._fingerprint = config_fingerprint(config)
        self._experiment_id = ""
        self._context = {"vim.preset": config.preset, **commit_tag(), **describe.job_tag(), **tags}
        own = {"vim.kind": "pipeline", "vim.fingerprint": self._fingerprint, **self._context, **owner_tags()}
        name = describe.run_name(config.preset, self._fingerprint)
        self._parent = MlflowRun(link, self._experiment, name, lambda: own)
        self._made: dict[str, tuple[Artifact, bool]] = {}
        self._page = ""
        self._over = threading.Event()

    @property
    def run_id(self) -> str:
        """The parent run's id, or '' while the server is away."""
        return self._parent.run_id

    @property
    def uri(self) -> str:
        """Where runs are tracked."""
        return self._link.uri

    @property
    def experiment_id(self) -> str:
        """MLflow's id of the experiment, or '' while the server is away."""
        return self._experiment_id

    def start(self) -> None:
        """Make the parent run, or continue an interrupted one of the same settings; keep its heartbeat going."""
        # MLflow is imported here, not in the delivering thread: two threads that import at once can trip each other.
        with contextlib.suppress(ServerAway, ServerRefused):
            self._link.call(lambda client: None)
        self._later("the run", self._begin)
        self._deliveries.settle(SETTLE_S)
        threading.Thread(target=self._beat, name="mlflow-beat", daemon=True).start()

    @contextlib.contextmanager
    def component(self, name: str, fingerprint: str, work: str) -> Iterator[Tracker]:
        """The child run of a component that is about to run; an earlier attempt's run in `work` is continued."""
        note = io.join(work, RUN_ID_FILE)
        known = io.read_bytes(note).decode() if io.exists(note) else ""
        over = threading.Event()

        def made(run_id: str) -> None:
            # Once the component is over its work folder is gone, and must not come back.
            if not over.is_set():
                io.write_bytes(note, run_id.encode())

        run = self._child(name, fingerprint, known, made)
        settings = settings_of(getattr(self._config, name))
        self._later(f"the settings of {name}", lambda: self._settings(run, name, settings))
        try:
            with self._monitored(name, run):
                yield run
        except BaseException as error:
            status = ending(error)
            self._later(f"the end of {name}", lambda: run.end(status))
            raise
        finally:
            over.set()
        self._open[name] = run

    def finished(self, name: str, artifact: Artifact, reused: bool) -> None:
        """Log what a component made, or in the parent that it was there already."""
        run = self._open.pop(name, None)
        if run is not None and not reused:
            self._log_artifact(run, name, artifact)
        else:
            if run is not None:
                self._later(f"the end of {name}", lambda: run.end("KILLED"))
            text = f"{artifact.manifest.fingerprint} run {artifact.manifest.mlflow_run_id or '-'}"
            self._later(f"the reuse of {name}", lambda: self._parent.tag({f"reused.{name}": text}))
            self._later(f"the run of {name}", lambda: self._complete(name, artifact))
        self._made[name] = (artifact, reused)
        self._summarize(name, artifact)
        if self._config.run.register and name in models.KINDS:
            self._later(f"the model of {name}", lambda: self._register(artifact, run))

    def report(self, page: str) -> None:
        """Link the run's report, a path or URI, in the run's description."""
        self._page = page
        self._describe()

    def file(self, path: str, folder: str = "") -> None:
        """Keep a local file with the parent run."""
        self._later(path, lambda: self._parent.change(lambda c, i: c.log_artifact(i, path, folder or None)))

    def close(self, status: str) -> None:
        """End the parent run; what is waiting gets at most `FLUSH_S` seconds to be delivered."""
        self._over.set()
        self._later("the end of the run", lambda: self._parent.end(status))
        missing = self._deliveries.close(FLUSH_S)
        if missing:
            names = ", ".join(missing[:4]) + (" …" if len(missing) > 4 else "")
            log.warning("MLflow at %s did not take %d entries (%s)", self.uri, len(missing), names)
        refused = [text for run in (self._parent, *self._runs) for text in run.refused]
        if refused:
            log.warning("MLflow at %s refused %d entries, first: %s", self.uri, len(refused), refused[0][:200])

    def _begin(self) -> bool:
        try:
            self._parent.adopt(self._interrupted())
        except ServerAway:
            return False
        except ServerRefused as error:
            self._parent.refused.append(str(error))
        return self._parent.change(lambda client, run_id: None)

    def _later(self, what: str, act: Callable[[], bool]) -> None:
        self._deliveries.add(what, act)

    def _settings(self, run: MlflowRun, name: str, settings: Mapping[str, Any]) -> bool:
        """The settings that were chosen as parameters, all of them as a file."""
        version = registry.component(name).VERSION
        whole = json.dumps(settings, indent=1)
        return run.params(describe.chosen(name, settings, version)) and run.text(describe.SETTINGS, whole)

    def _summarize(self, name: str, artifact: Artifact) -> None:
        """The parent's columns and description: one row of the experiment says how a run went."""
        figures, stamp = describe.highlights(artifact), describe.created_ms(artifact)
        if figures:
            self._later(f"the headlines of {name}", lambda: self._parent.metrics(0, figures, stamp))
        self._describe()

    def _describe(self) -> None:
        text = describe.of_pipeline(self._config.preset, self._made, self._page)
        self._later("the description", lambda: self._parent.tag({"mlflow.note.content": text}))

    def _register(self, artifact: Artifact, run: MlflowRun | None) -> bool:
        """Make the network a version of its registered model; False while the server is away."""
        known = (run.run_id if run else "", artifact.manifest.mlflow_run_id, self.run_id)
        try:
            self._link.call(lambda client: models.register(client, self._config.preset, artifact, known))
        except ServerRefused as error:
            self._parent.refused.append(str(error))
        except ServerAway as error:
            if silent(error):
                return False
            # A server whose registry fails must not hold up what comes after.
            self._parent.refused.append(str(error))
        return True

    def _log_artifact(self, run: MlflowRun, name: str, artifact: Artifact) -> None:
        """Queue what is known at the end of a component's run, and the end."""
        self._runs.append(run)
        manifest = artifact.manifest
        tags = {"vim.digest": artifact.digest, "vim.artifact": artifact.folder}
        tags |= {"vim.numeric": json.dumps(manifest.numeric)}
        tags |= {"mlflow.note.content": describe.of_component(artifact)}
        stamp = describe.created_ms(artifact)
        finals = {f"final/{key}": value for key, value in manifest.metrics.items()}
        inputs = mlflow_inputs.datasets(self._config.run.root, artifact)
        self._later(f"the tags of {name}", lambda: run.tag(tags))
        self._later(f"the figures of {name}", lambda: run.metrics(0, finals, stamp))
        if inputs:
            self._later(
                f"the inputs of {name}", lambda: run.change(lambda c, i: mlflow_inputs.log_inputs(c, i, inputs))
            )
        if run.behind:
            # A server that is back in time would take the run for complete otherwise.
            self._later(f"the rest of the curves of {name}", lambda: backfill.deliver(run, artifact))
        self._later(f"the end of {name}", lambda: run.end("FINISHED"))

    def _complete(self, name: str, artifact: Artifact) -> bool:
        """Make up for what a dead server missed when this artifact was made."""
        manifest = artifact.manifest
        try:
            if backfill.is_complete(self._link, self._experiment(), artifact):
                return True
        except ServerAway:
            return False
        run = self._child(name, manifest.fingerprint, manifest.mlflow_run_id)
        self._later(f"the settings of {name}", lambda: self._settings(run, name, manifest.config))
        self._later(f"the curves of {name}", lambda: backfill.deliver(run, artifact))
        self._log_artifact(run, name, artifact)
        return True

    def _child(
        self, name: str, fingerprint: str, known: str, made: Callable[[str], None] = lambda run_id: None
    ) -> MlflowRun:
        tags = {"vim.kind": "component", "vim.component": name, "vim.fingerprint": fingerprint, **self._context}
        return MlflowRun(self._link, self._experiment, name, lambda: {**tags, PARENT: self._parent.open()}, known, made)

    @contextlib.contextmanager
    def _monitored(self, name: str, run: MlflowRun) -> Iterator[None]:
        """Sample this machine into the run meanwhile, where that is wanted and no training samples its own nodes."""
        # A run id that is there in time enters the artifact's manifest.
        self._deliveries.settle(SETTLE_S)
        if not self._config.run.system_metrics or isinstance(getattr(self._config, name), TrainConfig):
            yield
            return
        with Sampler(DRIVER, driver(run, lambda act: self._later(f"the system metrics of {name}", act))):
            yield

    def _experiment(self) -> str:
        if not self._experiment_id:
            self._experiment_id = self._link.call(lambda client: find_experiment(client, self._config))
        return self._experiment_id

    def _interrupted(self) -> str:
        """The newest pipeline run of the same settings, if it was cut short and its process is gone; else ''."""
        query = f"tags.`vim.fingerprint` = '{self._fingerprint}' and tags.`vim.kind` = 'pipeline'"
        experiment = self._experiment()
        order = ["attributes.start_time DESC"]
        found = self._link.call(lambda c: list(c.search_runs([experiment], query, max_results=1, order_by=order)))
        if not found or found[0].info.status not in ("RUNNING", "KILLED"):
            return ""
        return str(found[0].info.run_id) if owner_gone(found[0].data.tags) else ""

    def _beat(self) -> None:
        while not self._over.wait(BEAT_S):
            self._parent.tag(beat_tag())


Tracking = PipelineTracking | NoTracking


def find_experiment(client: Any, config: PipelineConfig) -> str:
    """The id of the preset's experiment, which is made, or brought back, where it is not there."""
    found = client.get_experiment_by_name(config.preset)
    if found is None:
        where = artifact_location(config.run)
        return str(client.create_experiment(config.preset, artifact_location=where))
    if found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
    return str(found.experiment_id)


def config_fingerprint(config: PipelineConfig) -> str:
    """20 hex digits over all settings that change a result."""
    return hashlib.sha256(json.dumps(settings_of(config), sort_keys=True).encode()).hexdigest()[:20]


def ending(error: BaseException | None) -> str:
    """MLflow's status of a run that ended so: an interruption is no failure."""
    if error is None:
        return "FINISHED"
    return "FAILED" if isinstance(error, Exception) else "KILLED"


def open_run(config: PipelineConfig, tags: Mapping[str, str] | None = None, link: Link | None = None) -> Tracking:
    """Begin tracking a pipeline run; end it with `close(status)`. Raises `ConfigError` for a contradictory address."""
    uri = tracking_uri(config.run)
    if uri is None:
        return NoTracking()
    tracking = PipelineTracking(config, link or Link(uri), tags or {})
    tracking.start()
    return tracking
