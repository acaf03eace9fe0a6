"""The contract between a component and whatever runs it: artifacts in, an outcome out.

A component is a module with `VERSION`, `INPUTS` and `run(config, inputs, ctx)` (`Component`). It reads the artifacts of
other components (`Artifact`, which a `Manifest` describes), writes files by way of its `Context`, and returns an
`Outcome`; `components.artifacts.execute` makes the new artifact of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from vim_core.config import PipelineConfig, RunConfig
from vim_core.storage import io

SCHEMA = 1
"""Version of the manifest's own layout."""
ArtifactKey = tuple[str, str]
"""Component and fingerprint, which name an artifact in its root."""


@dataclass(frozen=True)
class FileEntry:
    """One file of an artifact: logical name, path below the artifact's folder, size, checksum, rows of a table."""

    name: str
    path: str
    bytes: int
    sha256: str
    rows: int | None = None


@dataclass(frozen=True)
class InputRecord:
    """One artifact that another was made from; the digest tells it from others of the same fingerprint."""

    component: str
    fingerprint: str
    digest: str

    @property
    def key(self) -> ArtifactKey:
        """Component and fingerprint."""
        return self.component, self.fingerprint


@dataclass(frozen=True)
class Manifest:
    """The record of one artifact, stored as `manifest.json`; with this file the artifact exists (contract 1).

    Attributes:
        component: name of the component that made it, in its `version`.
        fingerprint: 20 hex digits over the component, its version, `config` and the inputs' digests (contract 2).
        digest: 64 hex digits over what came out (contract 2).
        config: the settings that change the result.
        inputs: the artifacts it was made from, by the component's name for each.
        files: the files, with sizes and checksums.
        metrics: finite figures, such as `test_psnr_db`.
        properties: the component's description for readers, such as classes, grid, vocabulary.
        protocols: how metrics were measured, by metric (contract 8).
        numeric: device type, dtype and the like, on which the bits depend.
        seconds: duration of the run that made it.
        attempt: names that run; its files lie below `data-<attempt>/`.
        created: time of the commit, ISO 8601 in UTC.
        mlflow_run_id: its MLflow run, or ''.
        schema: layout of the manifest itself.
    """

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

    @property
    def key(self) -> ArtifactKey:
        """Component and fingerprint."""
        return self.component, self.fingerprint


@dataclass(frozen=True)
class Artifact:
    """A committed artifact: its folder (local path or URI) and manifest."""

    folder: str
    manifest: Manifest

    @property
    def name(self) -> str:
        """`component/fingerprint`, for people."""
        return "/".join(self.manifest.key)

    @property
    def digest(self) -> str:
        """64 hex digits over the content."""
        return self.manifest.digest

    @property
    def properties(self) -> dict[str, Any]:
        """The component's description of the artifact (classes, grid, vocabulary, lineage)."""
        return self.manifest.properties

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(entry.bytes for entry in self.manifest.files)

    @property
    def record(self) -> InputRecord:
        """Return the record by which manifests of other artifacts name it."""
        return InputRecord(*self.manifest.key, self.digest)

    def uri(self, name: str) -> str:
        """The path or URI of the file with this logical name. Raises `KeyError` where the manifest lists none."""
        for entry in self.manifest.files:
            if entry.name == name:
                return io.join(self.folder, entry.path)
        raise KeyError(f"{self.name} has no file {name!r}")

    def uris(self, prefix: str) -> list[str]:
        """Those of all files whose logical name starts with `prefix`, in name order."""
        return [self.uri(name) for name in sorted(e.name for e in self.manifest.files if e.name.startswith(prefix))]


Inputs = Mapping[str, Artifact]
"""A component's input artifacts by its own names for them."""


@dataclass
class Outcome:
    """A component's result, returned once its files are written; see `Manifest` for the first four fields.

    Attributes:
        rows: row counts to record, by logical file name.
        extras: logical names of files that the digest leaves out (pictures, curves).
        digest: replaces the Merkle hash over all files where there is a better one (of image tables: their content).
    """

    metrics: dict[str, float] = field(default_factory=dict)
    properties: dict[str, Any] = field(default_factory=dict)
    protocols: dict[str, Any] = field(default_factory=dict)
    numeric: dict[str, Any] = field(default_factory=dict)
    rows: dict[str, int] = field(default_factory=dict)
    extras: frozenset[str] = frozenset()
    digest: str | None = None


class Progress(Protocol):
    """A progress bar; `components/tracking/progress.py` has those of terminals and logs."""

    def start(self, total: int, unit: str) -> None:
        """Begin a bar of `total` steps; `unit` is what one step counts, such as 'step' or 'image'."""

    def status(self, text: str) -> None:
        """Say what happens before the first step, such as 'starting 1 worker'."""

    def advance(self, done: int, **figures: float) -> None:
        """Set the bar to `done`; figures such as loss or images_per_s are shown beside it."""

    def note(self, text: str) -> None:
        """Print one line above the bar."""


@dataclass(frozen=True)
class Row:
    """Figures of one step, with the time at which they were measured (Unix milliseconds)."""

    step: int
    timestamp_ms: int
    values: dict[str, float]


class Tracker(Protocol):
    """One component's MLflow run. Calls queue their arguments and never wait for the server."""

    @property
    def run_id(self) -> str:
        """The MLflow run id, or '' where there is none (yet)."""

    def rows(self, rows: Sequence[Row]) -> None:
        """Log rows of figures; a point whose metric has its step or a later one already is left out."""

    def image(
        self, name: str, png: bytes | str, step: int | None = None, delivered: Callable[[], None] = lambda: None
    ) -> None:
        """Log a picture, or the PNG file at a path or URI; `delivered` is called once the server has it."""

    def text(self, name: str, content: str) -> None:
        """Upload a text file to the run; it replaces one of this name."""

    def tag(self, tags: Mapping[str, str]) -> None:
        """Set tags of the run; a later value replaces an earlier one."""

    def flush(self, timeout_s: float) -> int:
        """Wait for queued entries while the server answers, drop the rest, and return the number of dropped entries."""


@dataclass
class Context:
    """Everything else a component may use while it runs.

    Attributes:
        name: the component's name.
        fingerprint: that of the artifact it makes.
        work: the leased work folder, which later attempts find as it was left (checkpoints, spools, finished shards).
        out: the folder of this attempt's files, which become the artifact's; `path` gives their places.
        run: where and with how many workers it runs; never changes the result.
        pipeline: the settings of the whole preset.
        progress: a bar for people.
        tracker: the component's MLflow run.
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
        """The path or URI to which the output file of this logical name is written."""
        return io.join(self.out, name)


class Component(Protocol):
    """A module in `components/`: cheap to import, with heavy imports inside `run`.

    It may also have `source_state(config)` and `CODES_OF`, which are `source` and `codes_of` of
    `fingerprint.fingerprint`, and `unused(config)`: the names of optional inputs that play no part under these
    settings, nor in the fingerprint.

    Attributes:
        VERSION: part of the fingerprint; a change of the results needs another one.
        INPUTS: the component that makes each input, by the input's name; one that ends in `?` is optional.
    """

    VERSION: int
    INPUTS: Mapping[str, str]

    @staticmethod
    def run(config: Any, inputs: Inputs, ctx: Context) -> Outcome:
        """Do the work; files go to `ctx.path(name)`."""
