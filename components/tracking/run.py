"""One MLflow run: calls over its link, and a queued `Tracker` over it for components, which never waits."""

from __future__ import annotations

import itertools
import json
import logging
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from typing import Any

from components.artifacts import store
from components.contract.api import InputRecord, Row
from components.tracking.link import DeliveryQueue, Link, ServerAway, ServerRefused
from vim_core.storage import io
from vim_core.text import flatten

log = logging.getLogger(__name__)

INTERNAL = "mlflow.vim."
"""Prefix of tags for programs: MLflow shows none of those that begin with `mlflow.`."""
TOKEN = f"{INTERNAL}token"
SAME_TITLE = 1000
"""Number of runs with one title that are told apart by a number."""
PARAM_LENGTH = 500
TAG_LENGTH = 5000
PARAMS_PER_CALL = 100
METRICS_PER_CALL = 1000
DATASET_DIGEST_LENGTH = 36
"""MLflow's limit; the whole digest is in the dataset's profile."""


class MlflowRun:
    """An MLflow run addressed by its id, never by MLflow's global state; made by the first call that gets through.

    `experiment` gives the experiment's id, `title` (default: `name`) and `tags` are used when the run is made; where
    the experiment has a run of this title, the new one gets a number behind it. `known_id` is the id of an earlier
    attempt's run, which is continued where it still exists. `opened` gets the id once there is one.

    Calls raise `ServerAway` and may be repeated then: a point with the same timestamp is one point for MLflow. A call
    that the server refuses for good is noted once in `link.refused` and raises nothing.

    `incomplete` says that points of the run were given up while the server was away: its artifact has them.
    """

    def __init__(
        self, link: Link, experiment: Callable[[], str], name: str, tags: Callable[[], Mapping[str, str]],
        known_id: str = "", opened: Callable[[str], None] | None = None, title: str = "",
    ) -> None:  # fmt: skip
        self.name, self.run_id, self.incomplete = name, "", False
        self._title = title or name
        self._link, self._experiment, self._tags = link, experiment, tags
        self.known_id, self._opened = known_id, opened
        self._token, self._creating = uuid.uuid4().hex, False
        self._last_steps: dict[str, int] = {}
        self._lock = threading.RLock()

    def open(self) -> str:
        """The run's id; makes or continues the run at the first call. Raises `ServerAway` or `ServerRefused`."""
        with self._lock:
            if not self.run_id:
                self.run_id = self._continue() or self._create()
                if self._opened:
                    self._opened(self.run_id)
            return self.run_id

    def change(self, act: Callable[[Any, str], object]) -> None:
        """Call `act(client, run_id)`. Raises `ServerAway`."""
        try:
            run_id = self.open()
            self._link.call(lambda client: act(client, run_id))
        except ServerRefused as error:
            self._link.refuse(error)

    def metrics(self, step: int, values: Mapping[str, float], timestamp_ms: int | None = None) -> None:
        """Log one row of figures; the time is now unless given. Raises `ServerAway`."""
        stamp = int(time.time() * 1000) if timestamp_ms is None else timestamp_ms
        self.rows([Row(step, stamp, dict(values))])

    def rows(self, rows: Sequence[Row]) -> None:
        """Log rows of figures in as few requests as MLflow allows. Raises `ServerAway`."""

        def act(client: Any, run_id: str) -> None:
            from mlflow.entities import Metric

            points = [Metric(k, float(v), row.timestamp_ms, row.step) for row in rows for k, v in row.values.items()]
            for start in range(0, len(points), METRICS_PER_CALL):
                client.log_batch(run_id, metrics=points[start : start + METRICS_PER_CALL])

        self.change(act)

    def new_rows(self, rows: Sequence[Row]) -> None:
        """Log the points that the run lacks: of every metric, those behind its last step. Raises `ServerAway`."""
        reached: dict[str, int] = {}
        lacking: list[Row] = []
        for row in rows:
            values: dict[str, float] = {}
            for name, value in row.values.items():
                if name not in self._last_steps:
                    self._last_steps[name] = self.last_step(name)
                if row.step > max(self._last_steps[name], reached.get(name, -1)):
                    values[name], reached[name] = value, row.step
            if values:
                lacking.append(Row(row.step, row.timestamp_ms, values))
        if lacking:
            self.rows(lacking)
        self._last_steps |= reached

    def last_step(self, metric: str) -> int:
        """The last step of this metric that the server has, -1 for none. Raises `ServerAway`."""
        history: list[Any] = []
        self.change(lambda client, run_id: history.extend(client.get_metric_history(run_id, metric)))
        return max((point.step for point in history), default=-1)

    def image(self, name: str, png: bytes, step: int | None = None) -> None:
        """Log a picture: with a step into MLflow's picture grid, else as `pictures/<name>.png`. Raises `ServerAway`."""

        def act(client: Any, run_id: str) -> None:
            from PIL import Image

            picture = Image.open(BytesIO(png)).convert("RGB")
            if step is None:
                client.log_image(run_id, picture, artifact_file=f"pictures/{name}.png")
            else:
                client.log_image(run_id, picture, key=name, step=step, synchronous=True)

        self.change(act)

    def text(self, name: str, content: str) -> None:
        """Log a text file in place of one of this name. Raises `ServerAway`."""
        self.change(lambda client, run_id: client.log_text(run_id, content, name))

    def tag(self, tags: Mapping[str, str]) -> None:
        """Set tags. Raises `ServerAway`."""

        def act(client: Any, run_id: str) -> None:
            from mlflow.entities import RunTag

            client.log_batch(run_id, tags=[RunTag(name, value[:TAG_LENGTH]) for name, value in tags.items()])

        self.change(act)

    def params(self, settings: Mapping[str, Any]) -> None:
        """Log nested settings under dotted names; long values are cut to `PARAM_LENGTH`. Raises `ServerAway`."""

        def act(client: Any, run_id: str) -> None:
            from mlflow.entities import Param

            texts = {name: str(value) for name, value in flatten(settings).items() if value != {}}
            params = [Param(name, text[:PARAM_LENGTH]) for name, text in texts.items()]
            for start in range(0, len(params), PARAMS_PER_CALL):
                client.log_batch(run_id, params=params[start : start + PARAMS_PER_CALL])

        self.change(act)

    def datasets(self, root: str, inputs: Mapping[str, InputRecord]) -> None:
        """Log the input artifacts of a component, by its names for them, as data sets. Raises `ServerAway`."""

        def act(client: Any, run_id: str) -> None:
            from mlflow.entities import Dataset, DatasetInput, InputTag

            entries = []
            for name, record in sorted(inputs.items()):
                source = json.dumps({"uri": store.folder(root, *record.key)})
                profile = json.dumps({"digest": record.digest, "fingerprint": record.fingerprint})
                digest = record.digest[:DATASET_DIGEST_LENGTH]
                dataset = Dataset(record.component, digest, "local", source, None, profile)
                entries.append(DatasetInput(dataset, [InputTag("mlflow.data.context", name)]))
            client.log_inputs(run_id, entries)

        self.change(act)

    def end(self, status: str) -> None:
        """Set the final status: FINISHED, FAILED or KILLED. Raises `ServerAway`."""
        self.change(lambda client, run_id: client.set_terminated(run_id, status))

    def _continue(self) -> str:
        """The id of the earlier attempt's run, which runs again; '' where the server has none."""
        if not self.known_id:
            return ""

        def act(client: Any) -> None:
            client.update_run(self.known_id, status="RUNNING")
            for name, value in self._tags().items():
                client.set_tag(self.known_id, name, value)

        try:
            self._link.call(act)
        except ServerRefused:
            self.known_id = ""
        return self.known_id

    def _create(self) -> str:
        experiment, tags = self._experiment(), {**self._tags(), TOKEN: self._token}
        if self._creating:  # the server may have made the run although its answer never came
            query = f"tags.`{TOKEN}` = '{self._token}'"
            runs = self._link.call(lambda client: list(client.search_runs([experiment], query)))
            if runs:
                return str(runs[0].info.run_id)
        title = self._link.call(lambda client: _unused_title(client, experiment, self._title))
        self._creating = True
        run = self._link.call(lambda client: client.create_run(experiment, tags=tags, run_name=title))
        return str(run.info.run_id)


def _unused_title(client: Any, experiment: str, title: str) -> str:
    """The title, with the first free number behind it where the experiment has a run of this title."""
    name = title.replace("'", "")
    if not client.search_runs([experiment], f"attributes.run_name = '{name}'", max_results=1):
        return name
    query = f"attributes.run_name LIKE '{name} (%'"
    taken = {run.info.run_name for run in client.search_runs([experiment], query, max_results=SAME_TITLE)}
    return next(each for number in itertools.count(2) if (each := f"{name} ({number})") not in taken)


class QueuedRun:
    """A component's `Tracker`: what it logs is queued for its MLflow run."""

    def __init__(self, run: MlflowRun, queue: DeliveryQueue) -> None:
        self._run, self._queue = run, queue
        self._texts: dict[str, str] = {}

    @property
    def run_id(self) -> str:
        """The MLflow run id, or '' while there is none."""
        return self._run.run_id

    def rows(self, rows: Sequence[Row]) -> None:
        """Queue rows of figures; a point whose metric has its step or a later one already is left out."""
        self._queue.add_rows(f"the figures of {self._run.name}", rows, self._run.new_rows, self)

    def image(
        self, name: str, png: bytes | str, step: int | None = None, delivered: Callable[[], None] = lambda: None
    ) -> None:
        """Queue a picture, or the path of one that is read at delivery; `delivered` is called afterwards."""

        def act() -> None:
            try:
                self._run.image(name, png if isinstance(png, bytes) else io.read_bytes(png), step)
            except FileNotFoundError:
                log.warning("picture %s is gone, it is not delivered to MLflow", png)
            delivered()

        self._queue.add(f"the picture {name}", act, self)

    def text(self, name: str, content: str) -> None:
        """Queue a text file; of several with one name that wait, only the last is sent."""
        waiting = name in self._texts
        self._texts[name] = content

        def act() -> None:
            newest = self._texts.pop(name, None)
            if newest is None:
                return
            try:
                self._run.text(name, newest)
            except ServerAway:
                self._texts.setdefault(name, newest)
                raise

        if not waiting:
            self._queue.add(name, act, self)

    def tag(self, tags: Mapping[str, str]) -> None:
        """Queue tags."""
        self._queue.add(f"the tags of {self._run.name}", lambda: self._run.tag(tags), self)

    def flush(self, timeout_s: float) -> int:
        """Wait for deliveries while the server answers; returns the number of dropped ones, which the artifact has."""
        self._queue.wait(timeout_s)
        given_up = self._queue.withdraw(self)
        self._run.incomplete = self._run.incomplete or given_up > 0
        return given_up
