"""The contract between a component and whatever runs it: artifacts in, an outcome out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from vim_core.config import PipelineConfig, RunConfig
from vim_core.storage import io

SCHEMA = 1
"""Version of the manifest's own layout."""


@dataclass(frozen=True)
class FileEntry:
    """One file of an artifact; `name` is its logical name, `path` where it lies below the artifact's folder."""

    name: str
    path: str
    bytes: int
    sha256: str
    rows: int | None = None


@dataclass(frozen=True)
class InputRecord:
    """What an artifact was made from."""

    component: str
    fingerprint: str
    digest: str


@dataclass(frozen=True)
class Manifest:
    """Everything known of one artifact (contract 1); its existence is what makes the artifact exist."""

    component: str
    version: int
    fingerprint: str
    digest: str
    config: dict[str, Any]
    inputs: dict[str, InputRecord]
    files: list[FileEntry]
    metrics: dict[str, float]
    properties: dict[str, Any]
    protocols: dict[str, Any]
    numeric: dict[str, Any]
    seconds: float
    attempt: str
    created: str
    mlflow_run_id: str = ""
    schema: int = SCHEMA


@dataclass(frozen=True)
class Artifact:
    """A committed artifact: its folder (local path or URI) and manifest."""

    folder: str
    manifest: Manifest

    @property
    def digest(self) -> str:
        """What came out, as a hash."""
        return self.manifest.digest

    @property
    def properties(self) -> dict[str, Any]:
        """The component's own description of the artifact (classes, grid, vocabulary, lineage)."""
        return self.manifest.properties

    def uri(self, name: str) -> str:
        """Where the file of this logical name lies. Raises `KeyError` for a name the manifest does not list."""
        for entry in self.manifest.files:
            if entry.name == name:
                return io.join(self.folder, entry.path)
        raise KeyError(f"{self.manifest.component}/{self.manifest.fingerprint} has no file {name!r}")

    def uris(self, prefix: str) -> list[str]:
        """All files whose logical name starts with `prefix`, in name order."""
        names = sorted(entry.name for entry in self.manifest.files if entry.name.startswith(prefix))
        return [self.uri(name) for name in names]


@dataclass
class Outcome:
    """What a component hands back once its files lie in `ctx.out`.

    `digest` replaces the Merkle hash over all files where the component has a better one (image tables: their
    content). Files listed in `rows` get their row count recorded. `extras` are logical names kept out of the
    digest (pictures, curves).
    """

    metrics: dict[str, float] = field(default_factory=dict)
    properties: dict[str, Any] = field(default_factory=dict)
    protocols: dict[str, Any] = field(default_factory=dict)
    numeric: dict[str, Any] = field(default_factory=dict)
    rows: dict[str, int] = field(default_factory=dict)
    extras: frozenset[str] = frozenset()
    digest: str | None = None


class Progress(Protocol):
    """A bar for people; the terminal's is in `components/tracking/progress.py`, tests use a silent one."""

    def start(self, total: int, unit: str) -> None:
        """Begin a bar of `total` steps; `unit` is what one step counts, such as 'step' or 'image'."""

    def advance(self, done: int, **figures: float) -> None:
        """Set the bar to `done`; figures such as loss or images_per_s are shown beside it."""

    def note(self, text: str) -> None:
        """Print one line above the bar."""


@dataclass(frozen=True)
class Row:
    """Figures of one step."""

    step: int
    timestamp_ms: int
    values: dict[str, float]


class Tracker(Protocol):
    """One component's MLflow run. Calls queue what they are given and never wait for the server."""

    @property
    def run_id(self) -> str:
        """The MLflow run id, or '' where there is none (yet)."""

    def metrics(self, step: int, values: Mapping[str, float], timestamp_ms: int | None = None) -> None:
        """Log one row of figures; the time is now unless given."""

    def rows(self, rows: Sequence[Row]) -> None:
        """Log rows of figures; a point whose metric has its step or a later one already is left out."""

    def image(
        self, name: str, png: bytes | str, step: int | None = None, delivered: Callable[[], None] = lambda: None
    ) -> None:
        """Log a picture, or the PNG file at a path or URI; `delivered` is called once the server has it."""

    def text(self, name: str, content: str) -> None:
        """Keep a text file with the run, in place of one of this name."""

    def flush(self, timeout_s: float) -> int:
        """Wait for what is queued while the server answers, give up the rest, and return its number of entries."""


@dataclass
class Context:
    """What a component may use while it runs.

    `work` is the leased work folder, kept over attempts (checkpoints, spools, finished shards); `out` is a folder
    of this attempt's own inside the artifact's folder: files written there under logical names are committed.
    """

    name: str
    fingerprint: str
    work: str
    out: str
    run: RunConfig
    pipeline: PipelineConfig
    progress: Progress
    tracker: Tracker

    def path(self, name: str) -> str:
        """Where to write the output file of this logical name."""
        return io.join(self.out, name)


Inputs = Mapping[str, Artifact]


class Component(Protocol):
    """A module in `components/`: cheap to import, heavy imports inside `run`.

    It may offer `source_state(config)` and `CODES_OF`: `source` and `codes_of` of `fingerprint.fingerprint`; and
    `unused(config)`: names of optional inputs that play no part under these settings, nor in the fingerprint.
    """

    VERSION: int
    INPUTS: Mapping[str, str]

    @staticmethod
    def run(config: Any, inputs: Inputs, ctx: Context) -> Outcome:
        """Do the work; files go to `ctx.path(name)`."""


def walk(inputs: Inputs) -> Iterator[tuple[str, Artifact]]:
    """Inputs in name order."""
    yield from sorted(inputs.items())
