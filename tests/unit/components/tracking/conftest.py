"""A real MLflow store in SQLite whose client can be made to fail, and a run that needs no MLflow."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from components.contract.api import Row
from components.tracking import link
from components.tracking.parent import ParentTracker
from components.tracking.run import MlflowRun
from vim_core.storage import io


class Server(MlflowRun):
    """A run whose server keeps points, pictures and texts; while `away` it answers nothing."""

    def __init__(self) -> None:
        super().__init__(link.Link("memory"), lambda: "", "run", dict)
        self.points: list[tuple[str, int, float]] = []
        self.pictures: list[tuple[str, int | None, bytes]] = []
        self.texts: list[tuple[str, str]] = []
        self.away = False

    def _answer(self) -> None:
        if self.away:
            raise link.ServerAway

    def rows(self, rows: Sequence[Row]) -> None:
        self._answer()
        self.points += [(name, row.step, value) for row in rows for name, value in row.values.items()]

    def last_step(self, metric: str) -> int:
        self._answer()
        return max((step for name, step, _ in self.points if name == metric), default=-1)

    def image(self, name: str, png: bytes, step: int | None = None) -> None:
        self._answer()
        self.pictures.append((name, step, png))

    def text(self, name: str, content: str) -> None:
        self._answer()
        self.texts.append((name, content))

    def tag(self, tags: Mapping[str, str]) -> None:
        self._answer()
        self.texts += tags.items()


class Client:
    """An MlflowClient; `away` makes every call fail, `replaced` holds other functions for some calls."""

    def __init__(self, uri: str) -> None:
        self.client: Any = link._mlflow_client(uri)
        self.uri = uri
        self.away = False
        self.calls = 0
        self.replaced: dict[str, Any] = {}

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any, **named: Any) -> Any:
            self.calls += 1
            if self.away:
                raise ConnectionError("refused")
            return self.replaced.get(name, getattr(self.client, name))(*arguments, **named)

        return call

    def link(self) -> link.Link:
        """A link over this client that may be used again at once after a failure."""
        return link.Link(self.uri, lambda uri: self, rest_s=0.0)

    def runs(self, kind: str = "") -> list[Any]:
        """All runs there are, or those of one `vim.kind`, the oldest first."""
        experiments = [each.experiment_id for each in self.client.search_experiments()]
        found = list(self.client.search_runs(experiments, order_by=["attributes.start_time ASC"]))
        return [run for run in found if kind in ("", run.data.tags.get("vim.kind"))]

    def points(self, run_id: str, metric: str) -> list[tuple[int, float]]:
        """Every point of a metric in order of steps; a point that came twice is there twice."""
        return sorted((point.step, point.value) for point in self.client.get_metric_history(run_id, metric))

    def text(self, run_id: str, name: str, folder: Path) -> str:
        """A text file of a run, by way of this folder."""
        return Path(self.client.download_artifacts(run_id, name, str(folder))).read_text()


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """MLflow's tables, made once for all processes of this session: their migrations take seconds."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if hasattr(request.config, "workerinput") else base) / "mlflow"
    folder.mkdir(exist_ok=True)
    path = folder / "mlflow.db"
    with io.locked(folder / "made.lock"):
        if not path.exists():
            link._mlflow_client(f"sqlite:///{folder}/new.db").search_experiments()
            (folder / "new.db").rename(path)
    return path


@pytest.fixture
def client(empty_database: Path, tmp_path: Path) -> Client:
    """A client of a store of its own."""
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    return Client(f"sqlite:///{tmp_path}/mlflow.db")


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow machine changes nothing, and a server that is back is asked at once."""
    monkeypatch.setattr(ParentTracker, "START_S", 60.0)
    monkeypatch.setattr(ParentTracker, "FLUSH_S", 60.0)
    monkeypatch.setattr(link.DeliveryQueue.__init__, "__defaults__", (0.05,))
