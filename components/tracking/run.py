"""One MLflow run that may have to wait for its server: made at the first call that gets through."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from typing import Any

from components.contract.api import Row
from components.tracking.link import Link, ServerAway, ServerRefused
from vim_core.text import flatten

TOKEN = "vim.token"
PARAM_LENGTH = 500
PARAMS_PER_CALL = 100
METRICS_PER_CALL = 1000


class OffTracker:
    """Takes everything and keeps nothing: tracking is off."""

    @property
    def run_id(self) -> str:
        """Empty: there is no run."""
        return ""

    def metrics(self, step: int, values: Mapping[str, float], timestamp_ms: int | None = None) -> bool:
        """Take a row and forget it."""
        return True

    def rows(self, rows: Sequence[Row]) -> bool:
        """Take rows and forget them."""
        return True

    def image(self, name: str, png: bytes, step: int | None = None) -> bool:
        """Take a picture and forget it."""
        return True

    def text(self, name: str, content: str) -> bool:
        """Take a file and forget it."""
        return True

    def last_step(self, key: str) -> int | None:
        """Nothing was delivered."""
        return -1

    def left(self, entries: int) -> None:
        """Nothing is ever left."""


class MlflowRun:
    """An MLflow run addressed by its id, never by MLflow's global state.

    `experiment` gives the experiment's id, `name` and `tags` are used when the run is made. `known` is the id of an
    earlier attempt's run, which is continued where it still exists. `made` is told the id once there is one.
    Calls that change the run return False while the server is away, and True when it took or refused them
    for good; refusals are counted in `refused`. `behind` says that a spool could not be delivered to its end.
    """

    def __init__(
        self, link: Link, experiment: Callable[[], str], name: str,
        tags: Callable[[], Mapping[str, str]], known: str = "",
        made: Callable[[str], None] = lambda run_id: None,
    ) -> None:  # fmt: skip
        self._link, self._experiment, self._name = link, experiment, name
        self._tags, self._token = tags, uuid.uuid4().hex
        self._known, self._made = known, made
        self._id = ""
        self._asked = False
        self._lock = threading.RLock()
        self.refused: list[str] = []
        self.behind = False

    @property
    def run_id(self) -> str:
        """The MLflow run id, or '' while there is none."""
        return self._id

    def adopt(self, known: str) -> None:
        """Continue the run of this id at the first call, instead of making one; '' changes nothing."""
        self._known = known or self._known

    def open(self) -> str:
        """The run's id; makes or continues the run at the first call. Raises `ServerAway` or `ServerRefused`."""
        with self._lock:
            if not self._id:
                self._id = self._continued() or self._created()
                self._made(self._id)
            return self._id

    def change(self, act: Callable[[Any, str], object]) -> bool:
        """Run `act(client, run_id)`; False when the server is away."""
        try:
            run_id = self.open()
            self._link.call(lambda client: act(client, run_id))
        except ServerAway:
            return False
        except ServerRefused as error:
            self.refused.append(str(error))
        return True

    def metrics(self, step: int, values: Mapping[str, float], timestamp_ms: int | None = None) -> bool:
        """Log one row of figures; the time is now unless given."""
        stamp = int(time.time() * 1000) if timestamp_ms is None else timestamp_ms
        return self.rows([Row(step, stamp, dict(values))])

    def rows(self, rows: Sequence[Row]) -> bool:
        """Log many rows in as few requests as MLflow allows."""

        def act(client: Any, run_id: str) -> None:
            from mlflow.entities import Metric

            points = [Metric(k, float(v), row.timestamp_ms, row.step) for row in rows for k, v in row.values.items()]
            for start in range(0, len(points), METRICS_PER_CALL):
                client.log_batch(run_id, metrics=points[start : start + METRICS_PER_CALL])

        return self.change(act)

    def image(self, name: str, png: bytes, step: int | None = None) -> bool:
        """Log a picture: with a step it joins MLflow's picture grid, without one it lies under `pictures/`."""

        def act(client: Any, run_id: str) -> None:
            from PIL import Image

            picture = Image.open(BytesIO(png)).convert("RGB")
            if step is None:
                client.log_image(run_id, picture, artifact_file=f"pictures/{name}.png")
            else:
                client.log_image(run_id, picture, key=name, step=step, synchronous=True)

        return self.change(act)

    def text(self, name: str, content: str) -> bool:
        """Log a text file, in place of one of this name."""
        return self.change(lambda client, run_id: client.log_text(run_id, content, name))

    def last_step(self, key: str) -> int | None:
        """The last step of this metric that the server has, -1 for none, None while it is away."""
        try:
            run_id = self.open()
            history = self._link.call(lambda client: client.get_metric_history(run_id, key))
        except ServerAway:
            return None
        except ServerRefused as error:
            self.refused.append(str(error))
            return -1
        return max((point.step for point in history), default=-1)

    def left(self, entries: int) -> None:
        """Remember that the run lacks entries: it must not count as complete before it has them."""
        self.behind = True

    def tag(self, tags: Mapping[str, str]) -> bool:
        """Set tags."""

        def act(client: Any, run_id: str) -> None:
            from mlflow.entities import RunTag

            client.log_batch(run_id, tags=[RunTag(name, value[:5000]) for name, value in tags.items()])

        return self.change(act)

    def params(self, settings: Mapping[str, Any]) -> bool:
        """Log flattened settings; long values are cut to `PARAM_LENGTH` characters."""

        def act(client: Any, run_id: str) -> None:
            from mlflow.entities import Param

            texts = {name: str(value) for name, value in flatten(settings).items() if value != {}}
            params = [Param(name, text[:PARAM_LENGTH]) for name, text in texts.items()]
            for start in range(0, len(params), PARAMS_PER_CALL):
                client.log_batch(run_id, params=params[start : start + PARAMS_PER_CALL])

        return self.change(act)

    def end(self, status: str) -> bool:
        """Set the final status: FINISHED, FAILED or KILLED."""
        return self.change(lambda client, run_id: client.set_terminated(run_id, status))

    def _continued(self) -> str:
        if not self._known:
            return ""
        try:
            return self._link.call(lambda client: self._revive(client, self._known))
        except ServerRefused:
            self._known = ""
            return ""

    def _revive(self, client: Any, run_id: str) -> str:
        client.update_run(run_id, status="RUNNING")
        for name, value in self._tags().items():
            client.set_tag(run_id, name, value)
        return run_id

    def _created(self) -> str:
        experiment, tags = self._experiment(), {**self._tags(), TOKEN: self._token}
        if self._asked:  # the server may have made the run although its answer never came
            query = f"tags.`{TOKEN}` = '{self._token}'"
            found = self._link.call(lambda client: list(client.search_runs([experiment], query)))
            if found:
                return str(found[0].info.run_id)
        self._asked = True
        run = self._link.call(lambda client: client.create_run(experiment, tags=tags, run_name=self._name))
        return str(run.info.run_id)
