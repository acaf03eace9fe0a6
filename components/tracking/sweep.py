"""MLflow runs of a sweep: a run with a child per point; an unavailable server causes no delay and no duplicates."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from components.tracking.link import Link
from components.tracking.parent import PARENT, ParentTracker, owner_tags, source_tags
from components.tracking.run import INTERNAL, MlflowRun
from vim_core.config import PipelineConfig

PAGE = 500
"""Runs of one search request."""
KIND, SWEEP, FINGERPRINT = "vim.kind", "vim.sweep", "vim.fingerprint"
POINT, RESULT, REASON = "vim.point", f"{INTERNAL}result", "vim.reason"
OLD_RESULT = "vim.result"
"""The same in runs of earlier versions."""


@dataclass(frozen=True)
class PointRecord:
    """One point as MLflow gets it; `made` is the time of its newest artifact (ISO 8601), `reason` why it failed."""

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
        """20 hex digits over the whole record: a point that the server has with this value is not sent again."""
        return _digest(asdict(self))

    @property
    def timestamp_ms(self) -> int:
        """Constant over deliveries, because MLflow keeps one of several points with equal values and times."""
        return int((datetime.fromisoformat(self.made).timestamp() if self.made else time.time()) * 1000)


class SweepTracker(ParentTracker):
    """Tracks a sweep from `start` to `close`; the run of an earlier run of the same sweep is continued.

    `settings` become the run's parameters. Entries that the server does not accept in time are delivered when the same
    sweep is run again.
    """

    missed_remedy = "; running the sweep again delivers them"

    def __init__(
        self, config: PipelineConfig, name: str, fingerprint: str, settings: Mapping[str, Any],
        tags: Mapping[str, str], link: Link | None = None,
    ) -> None:  # fmt: skip
        super().__init__(config, f"sweep {name}", link)
        self._name, self._fingerprint, self._settings, self._given_tags = name, fingerprint, settings, tags
        self._points: dict[str, MlflowRun] = {}
        self._delivered: dict[str, tuple[str, str]] = {}

    def start(self) -> None:
        """Make or continue the sweep's run; waits a moment, so that it is usually there before the first point."""
        super().start()
        self._queue.add("the sweep's settings", lambda: self._parent.params(self._settings))

    def point(self, point: PointRecord) -> None:
        """Log the result of a point, unless the server has it already."""
        self._queue.add(f"point {point.number}", lambda: self._deliver(point))

    def run_of(self, key: str) -> str:
        """The run id of a point, or '' while there is none."""
        run = self._points.get(key)
        return (run.run_id if run else "") or self._delivered.get(key, ("", ""))[0]

    def log_figures(self, figures: Mapping[str, float]) -> None:
        """Log figures of the sweep itself, unless the server has them: repeated, each would be a further point."""

        def deliver() -> None:
            result, run_id = _digest(dict(figures)), self._parent.open()
            if _result(self._link.call(lambda client: client.get_run(run_id))) != result:
                self._parent.metrics(0, figures)
                self._parent.tag({RESULT: result})

        self._queue.add("the sweep's figures", deliver)

    def _tags(self) -> dict[str, str]:
        tags = {KIND: "sweep", SWEEP: self._name, FINGERPRINT: self._fingerprint, "vim.preset": self._config.preset}
        return {**tags, **owner_tags(), **source_tags("vimctl sweep run"), **self._given_tags}

    def _begin(self) -> None:
        """Open the newest run of the same sweep or a new one, and look up which points the server has."""
        newest = self._newest_run(f"tags.`{FINGERPRINT}` = '{self._fingerprint}' and tags.`{KIND}` = 'sweep'")
        self._parent.known_id = str(newest.info.run_id) if newest else ""
        query = f"tags.`{PARENT}` = '{self._parent.open()}' and tags.`{KIND}` = 'point'"

        def search(client: Any) -> dict[str, tuple[str, str]]:
            """Run id and delivered result of every point by the point's key."""
            points: dict[str, tuple[str, str]] = {}
            token: str | None = None
            while True:
                page = client.search_runs([self.experiment_id], query, max_results=PAGE, page_token=token)
                for run in page:
                    points[run.data.tags.get(POINT, "")] = (str(run.info.run_id), _result(run))
                token = page.token
                if not token:
                    return points

        self._delivered = self._link.call(search)

    def _deliver(self, point: PointRecord) -> None:
        known_id, delivered = self._delivered.get(point.key, ("", ""))
        if delivered == point.result:
            return
        if point.key not in self._points:
            tags = {KIND: "point", POINT: point.key, "vim.preset": self._config.preset}
            tags |= source_tags("vimctl sweep run")
            self._points[point.key] = self._child(point.label, tags, known_id)
        run = self._points[point.key]
        run.params(point.settings)
        run.metrics(0, point.figures, point.timestamp_ms)
        run.tag({**{f"vim.artifact.{name}": key for name, key in point.artifacts.items()}, REASON: point.reason})
        run.end("FAILED" if point.reason else "FINISHED")
        # Last: the next run of the sweep sends everything again that was not delivered before this.
        run.tag({RESULT: point.result})


def _result(run: Any) -> str:
    """The digest of what the server has, '' for nothing."""
    return str(run.data.tags.get(RESULT) or run.data.tags.get(OLD_RESULT, ""))


def _digest(record: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True, default=str).encode()).hexdigest()[:20]
