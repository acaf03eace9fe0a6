"""Run one component into one artifact: reuse, lease, attempt, exclusive commit (contracts 1, 2 and 11)."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from components.artifacts import lease, store, usage
from components.contract import fingerprint, registry
from components.contract.api import Artifact, Component, Context, InputRecord, Manifest, Outcome, Progress, Tracker
from vim_core.config import PipelineConfig
from vim_core.errors import DataError, VimError
from vim_core.storage import io

ArtifactCache = dict[str, Artifact]
"""Artifacts looked up before; one dictionary per pipeline run saves looking again."""


@dataclass(frozen=True)
class Reporting:
    """What a run lends its components: bars for people, and MLflow runs by (component, fingerprint, work folder)."""

    progress: Callable[[str], Progress]
    tracking: Callable[[str, str, str], AbstractContextManager[Tracker]]


@dataclass(frozen=True)
class Result:
    """A component's artifact, whether it was there before, and the seconds this call took."""

    artifact: Artifact
    reused: bool
    seconds: float


@dataclass(frozen=True)
class Request:
    """One component asked for with its inputs at hand."""

    name: str
    module: Component
    config: PipelineConfig
    settings: dict[str, Any]
    inputs: dict[str, Artifact]
    fingerprint: str

    @property
    def root(self) -> str:
        """The artifact root, absolute where it is local: workers may run in another folder."""
        return io.absolute(self.config.run.root)

    @property
    def work(self) -> str:
        """Where unfinished work is kept over attempts."""
        return io.join(self.root, ".work", self.name, self.fingerprint)

    @property
    def leases(self) -> str:
        """Where ownership of the work is recorded; beside it, so that the work can be removed while it is owned."""
        return usage.folder(self.root, self.name, self.fingerprint)

    @property
    def folder(self) -> str:
        """The artifact's folder."""
        return store.folder(self.root, self.name, self.fingerprint)

    def stored(self) -> Artifact | None:
        """The artifact, if it exists."""
        return store.load(self.root, self.name, self.fingerprint)


def find(name: str, config: PipelineConfig, known: ArtifactCache | None = None) -> Artifact | None:
    """The artifact of `name` under this config, or None where it or something before it was not made yet."""
    return _find(name, config, {} if known is None else known, set())


def execute(
    name: str, config: PipelineConfig, services: Reporting, force: bool = False, known: ArtifactCache | None = None
) -> Result:
    """Make the artifact of `name`, or return the one that exists.

    `force` makes it again. Raises `DataError` when an input was not made yet, `StorageError` when the root cannot be
    used or is full, and whatever the component raises; then no manifest exists, and work worth resuming is kept.
    """
    began = time.monotonic()
    known = {} if known is None else known
    request = _request(name, config, _inputs(name, config, known))
    artifact, reused = _reused(request), True
    if artifact is None or force:
        artifact, reused = _make(request, services, force, known)
    for later in registry.NAMES[registry.NAMES.index(name) :]:
        known.pop(later, None)
    known[name] = artifact
    return Result(artifact, reused, time.monotonic() - began)


def _find(name: str, config: PipelineConfig, known: ArtifactCache, missing: set[str]) -> Artifact | None:
    if name in known or name in missing:
        return known.get(name)
    sources = registry.inputs_of(name, config.components, config)
    found = {key: _find(source, config, known, missing) for key, source in sources.items()}
    inputs = {key: artifact for key, artifact in found.items() if artifact is not None}
    artifact = _request(name, config, inputs).stored() if len(inputs) == len(found) else None
    if artifact is None:
        missing.add(name)
    else:
        known[name] = artifact
    return artifact


def _inputs(name: str, config: PipelineConfig, known: ArtifactCache) -> dict[str, Artifact]:
    inputs: dict[str, Artifact] = {}
    for key, source in registry.inputs_of(name, config.components, config).items():
        artifact = find(source, config, known)
        if artifact is None:
            command = f"vimctl run {source} --preset {config.preset}"
            raise DataError(f"{name} needs the output of {source}, which was not made with these settings: `{command}`")
        inputs[key] = artifact
    return inputs


def prepare(name: str, config: PipelineConfig) -> Request:
    """The component with its inputs looked up, for whoever starts its work without waiting for it.

    Raises:
        DataError: an input was not made yet.
    """
    return _request(name, config, _inputs(name, config, {}))


def _request(name: str, config: PipelineConfig, inputs: dict[str, Artifact]) -> Request:
    module = registry.component(name)
    own = getattr(config, name)
    settings = fingerprint.settings_of(own)
    state = getattr(module, "source_state", None)
    source = state(own) if state is not None else ""
    codes_of = getattr(module, "CODES_OF", ())
    key = fingerprint.fingerprint(name, module.VERSION, settings, inputs, source, codes_of)
    return Request(name, module, config, settings, inputs, key)


def _reused(request: Request) -> Artifact | None:
    """The artifact, if it exists: noted as used before the look that counts, so that it is not removed meanwhile."""
    if request.stored() is None:
        return None
    usage.touch(request.leases)
    return request.stored()


def _make(request: Request, services: Reporting, force: bool, known: ArtifactCache) -> tuple[Artifact, bool]:
    progress = services.progress(request.name)
    with store.guarded(request.root):
        io.make_folder(request.leases)
    with lease.hold(request.leases, progress.note) as held:
        existing = request.stored()
        if existing is not None and not force:
            return existing, True
        # What this run found so far is not to vanish before later components need it.
        usage.record_inputs(request.leases, [*known.values(), *request.inputs.values()])
        usage.verify_inputs(request.root, request.name, request.inputs)
        _sweep(request, held, existing)
        with store.guarded(request.root):
            io.make_folder(request.work)
        tracking = services.tracking(request.name, request.fingerprint, request.work)
        with tracking as tracker, _attempt(request, held) as out:
            context = _context(request, out, progress, tracker)
            artifact, won = _run(request, context, held, existing)
        if held.owned():
            with store.guarded(request.root):
                io.remove_tree(request.work)
    return artifact, not won


def _sweep(request: Request, held: lease.Lease, existing: Artifact | None) -> None:
    """Remove the data of an attempt whose process died: no manifest names it, and nobody writes there any more."""
    if held.dead is None or (existing is not None and existing.manifest.attempt == held.dead):
        return
    with store.guarded(request.root):
        io.remove_tree(io.join(request.folder, f"data-{held.dead}"))


@contextlib.contextmanager
def _attempt(request: Request, held: lease.Lease) -> Iterator[str]:
    """The attempt's own data folder; removed again unless a manifest names it in the end."""
    out = io.join(request.folder, f"data-{held.owner.token}")
    with store.guarded(request.root):
        io.make_folder(out)
    try:
        yield out
    except BaseException as error:
        _discard(request, out, held.owner.token)
        known = None if isinstance(error, VimError) else store.storage_error(error, request.root)
        if known is not None:
            raise known from error
        raise


def _discard(request: Request, out: str, attempt: str) -> None:
    """Remove an attempt's data unless a manifest names it: an interrupt may come right after the commit."""
    # The failure that led here is the one to report, not a second one while tidying up.
    with contextlib.suppress(OSError, VimError):
        existing = request.stored()
        if existing is None or existing.manifest.attempt != attempt:
            io.remove_tree(out)


def _context(request: Request, out: str, progress: Progress, tracker: Tracker) -> Context:
    run = request.config.run
    return Context(request.name, request.fingerprint, request.work, out, run, request.config, progress, tracker)


def _run(request: Request, context: Context, held: lease.Lease, existing: Artifact | None) -> tuple[Artifact, bool]:
    began = time.monotonic()
    outcome = request.module.run(getattr(request.config, request.name), request.inputs, context)
    manifest = _manifest(request, context, outcome, time.monotonic() - began, held.owner.token)
    held.check()
    if existing is not None:
        store.retire(request.root, existing)
    artifact, won = store.commit(request.root, manifest)
    if not won:
        _discard(request, context.out, manifest.attempt)
    return artifact, won


def _manifest(request: Request, context: Context, outcome: Outcome, seconds: float, attempt: str) -> Manifest:
    files = store.files_in(context.out, f"data-{attempt}", outcome.rows)
    names = {entry.name for entry in files}
    stray = sorted((set(outcome.rows) | outcome.extras) - names)
    if stray:
        raise ValueError(f"{request.name} names files it did not write: {', '.join(stray)}")
    hashed = [(entry.name, entry.sha256) for entry in files if entry.name not in outcome.extras]
    if not hashed and outcome.digest is None:
        raise ValueError(f"{request.name} wrote no file that a digest could be taken of")
    for key, value in outcome.metrics.items():
        if not math.isfinite(value):
            raise DataError(
                f"{request.name}: the metric {key} is {value}, not a number worth keeping; nothing committed"
            )
    return Manifest(
        component=request.name,
        version=request.module.VERSION,
        fingerprint=request.fingerprint,
        digest=outcome.digest or fingerprint.merkle(hashed),
        config=request.settings,
        inputs={key: _record(artifact) for key, artifact in request.inputs.items()},
        files=files,
        metrics={key: float(value) for key, value in outcome.metrics.items()},
        properties=outcome.properties,
        protocols=outcome.protocols,
        numeric=outcome.numeric,
        seconds=round(seconds, 3),
        attempt=attempt,
        created=datetime.now(UTC).isoformat(),
        mlflow_run_id=context.tracker.run_id,
    )


def _record(artifact: Artifact) -> InputRecord:
    return InputRecord(artifact.manifest.component, artifact.manifest.fingerprint, artifact.digest)
