"""The MLflow side of a sweep: one run, a child for each point; a dead server delays nothing and doubles nothing."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from components.tracking.deliveries import Deliveries
from components.tracking.link import Link, ServerAway, ServerRefused, tracking_uri
from components.tracking.owner import commit_tag, owner_tags
from components.tracking.run import MlflowRun
from components.tracking.tracker import FLUSH_S, PARENT, SETTLE_S, find_experiment
from vim_core.config import PipelineConfig

log = logging.getLogger(__name__)

PAGE = 500
"""Runs that are asked for at once."""
KIND, SWEEP, FINGERPRINT = "vim.kind", "vim.sweep", "vim.fingerprint"
POINT, RESULT, REASON = "vim.point", "vim.result", "vim.reason"


@dataclass(frozen=True)
class PointRecord:
    """What is told of one point; `made` is when its newest artifact was, in ISO 8601, `reason` why it failed."""

    key: str
    number: int
    label: str
    settings: Mapping[str, Any]
    figures: Mapping[str, float]
    reason: str
    artifacts: Mapping[str, str]
    made: str

    @property
    def result(self) -> str:
        """20 hex digits over all of it: a point that the server has like this is not sent again."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True, default=str).encode()).hexdigest()[:20]

    @property
    def timestamp_ms(self) -> int:
        """The same at every delivery, because MLflow keeps one point of those that are equal down to their time."""
        return int((datetime.fromisoformat(self.made).timestamp() if self.made else time.time()) * 1000)


class OffSweepTracking:
    """Tracking switched off by `run.tracking_uri=off`."""

    def start(self) -> None:
        """Do nothing."""

    def point(self, point: PointRecord) -> None:
        """Do nothing."""

    def run_of(self, key: str) -> str:
        """No run."""
        return ""

    def record(self) -> dict[str, str]:
        """Nowhere."""
        return {}

    def settle(self) -> None:
        """Do nothing."""

    def file(self, path: str) -> None:
        """Do nothing."""

    def close(self, status: str, figures: Mapping[str, float]) -> None:
        """Do nothing."""


class MlflowSweepTracking(OffSweepTracking):
    """Made by `open_sweep`; the run of an earlier run of the same sweep is continued."""

    def __init__(
        self, config: PipelineConfig, link: Link, name: str, fingerprint: str, asked: Mapping[str, Any],
        tags: Mapping[str, str],
    ) -> None:  # fmt: skip
        self._config, self._link, self._asked = config, link, asked
        own = {KIND: "sweep", SWEEP: name, FINGERPRINT: fingerprint, "vim.preset": config.preset}
        own = {**own, **owner_tags(), **commit_tag(), **tags}
        self._fingerprint = fingerprint
        self._experiment_id = ""
        self._parent = MlflowRun(link, self._experiment, f"sweep {name}", lambda: own)
        self._deliveries = Deliveries()
        self._points: dict[str, MlflowRun] = {}
        self._there: dict[str, tuple[str, str]] | None = None

    def start(self) -> None:
        """Begin; waits a moment, so that the run is usually there before the first point."""
        with contextlib.suppress(ServerAway, ServerRefused):
            self._link.call(lambda client: None)  # MLflow is imported here, not by two threads at once
        self._deliveries.add("the sweep's run", self._begin)
        self._deliveries.settle(SETTLE_S)

    def point(self, point: PointRecord) -> None:
        """Tell how a point came out; what the server has already is not sent again."""
        self._deliveries.add(f"point {point.number}", lambda: self._tell(point))

    def run_of(self, key: str) -> str:
        """The run id of a point, or '' while there is none."""
        if key in self._points and self._points[key].run_id:
            return self._points[key].run_id
        return (self._there or {}).get(key, ("", ""))[0]

    def record(self) -> dict[str, str]:
        """Address, experiment, run id, and the run's page where a server shows it."""
        run_id, uri = self._parent.run_id, self._link.uri
        found = {"tracking_uri": uri, "experiment": self._config.preset, "run_id": run_id}
        if uri.startswith("http") and run_id:
            found["url"] = f"{uri.rstrip('/')}/#/experiments/{self._experiment_id}/runs/{run_id}"
        return found

    def settle(self) -> None:
        """Wait a moment for what is under way."""
        self._deliveries.settle(FLUSH_S)

    def file(self, path: str) -> None:
        """Keep a local file with the sweep's run, in the place of one of this name."""
        self._deliveries.add(path, lambda: self._parent.change(lambda c, i: c.log_artifact(i, path, "sweep")))

    def close(self, status: str, figures: Mapping[str, float]) -> None:
        """End the run. What a server did not take by then is delivered when the same sweep is run again."""
        self._deliveries.add("the sweep's figures", lambda: self._sum_up(figures))
        self._deliveries.add("the end of the sweep", lambda: self._parent.end(status))
        missing = self._deliveries.close(FLUSH_S)
        if missing:
            names = ", ".join(missing[:4]) + (" …" if len(missing) > 4 else "")
            log.warning("MLflow at %s did not take %d entries (%s); running the sweep again delivers them",
                        self._link.uri, len(missing), names)  # fmt: skip
        refused = [text for run in (self._parent, *self._points.values()) for text in run.refused]
        if refused:
            log.warning("MLflow at %s refused %d entries, first: %s", self._link.uri, len(refused), refused[0][:200])

    def _begin(self) -> bool:
        try:
            self._parent.adopt(self._earlier())
            self._there = self._children()
        except ServerAway:
            return False
        except ServerRefused as error:
            self._parent.refused.append(str(error))
            self._there = {}
        return self._parent.params(self._asked)

    def _sum_up(self, figures: Mapping[str, float]) -> bool:
        """The sweep's own figures, unless the server has them from an earlier run: each would be a further point."""
        result = hashlib.sha256(json.dumps(dict(figures), sort_keys=True).encode()).hexdigest()[:20]
        try:
            run_id = self._parent.open()
            told = self._link.call(lambda client: client.get_run(run_id)).data.tags.get(RESULT)
        except ServerAway:
            return False
        except ServerRefused as error:
            self._parent.refused.append(str(error))
            return True
        if told == result:
            return True
        return self._parent.metrics(0, figures) and self._parent.tag({RESULT: result})

    def _tell(self, point: PointRecord) -> bool:
        known, told = (self._there or {}).get(point.key, ("", ""))
        if told == point.result:
            return True
        tags = {KIND: "point", POINT: point.key, "vim.preset": self._config.preset}
        run = self._points.setdefault(
            point.key,
            MlflowRun(
                self._link, self._experiment, point.label, lambda: {**tags, PARENT: self._parent.open()}, known=known
            ),
        )
        made = {f"vim.artifact.{name}": fingerprint for name, fingerprint in point.artifacts.items()}
        status = "FAILED" if point.reason else "FINISHED"
        acts: tuple[Callable[[], bool], ...] = (
            lambda: run.params(point.settings),
            lambda: run.metrics(0, point.figures, point.timestamp_ms),
            lambda: run.tag({**made, REASON: point.reason}),
            lambda: run.end(status),
            # Last: whatever was not delivered before is sent again by the next run of the sweep.
            lambda: run.tag({RESULT: point.result}),
        )
        return all(act() for act in acts)

    def _experiment(self) -> str:
        if not self._experiment_id:
            self._experiment_id = self._link.call(lambda client: find_experiment(client, self._config))
        return self._experiment_id

    def _earlier(self) -> str:
        """The newest run of the same sweep, or ''."""
        query = f"tags.`{FINGERPRINT}` = '{self._fingerprint}' and tags.`{KIND}` = 'sweep'"
        experiment, order = self._experiment(), ["attributes.start_time DESC"]
        found = self._link.call(lambda c: list(c.search_runs([experiment], query, max_results=1, order_by=order)))
        return str(found[0].info.run_id) if found else ""

    def _children(self) -> dict[str, tuple[str, str]]:
        """Run id and delivered result of every point that the server has, by the point's key."""
        parent, experiment = self._parent.open(), self._experiment()
        query = f"tags.`{PARENT}` = '{parent}' and tags.`{KIND}` = 'point'"
        found: dict[str, tuple[str, str]] = {}
        token: str | None = None
        while True:
            ask = functools.partial(_page, [experiment], query, token)
            page = self._link.call(ask)
            for run in page:
                found[run.data.tags.get(POINT, "")] = (str(run.info.run_id), run.data.tags.get(RESULT, ""))
            token = getattr(page, "token", None)
            if not token:
                return found


def _page(experiments: list[str], query: str, token: str | None, client: Any) -> Any:
    return client.search_runs(experiments, query, max_results=PAGE, page_token=token)


def open_sweep(
    config: PipelineConfig, name: str, fingerprint: str, asked: Mapping[str, Any], tags: Mapping[str, str],
    link: Link | None = None,
) -> OffSweepTracking:  # fmt: skip
    """Begin tracking a sweep. Raises `ConfigError` for a tracking address that contradicts the root."""
    uri = tracking_uri(config.run)
    if uri is None:
        return OffSweepTracking()
    made = MlflowSweepTracking(config, link or Link(uri), name, fingerprint, asked, tags)
    made.start()
    return made
