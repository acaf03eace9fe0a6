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
from components.contract import code, fingerprint, registry
from components.contract.api import Artifact, Component, Context, Manifest, Outcome, Progress, Tracker
from components.contract.commands import command
from vim_core.config import PipelineConfig
from vim_core.errors import DataError, VimError
from vim_core.storage import io

ArtifactCache = dict[str, Artifact]
"""Artifacts looked up so far, by component; a whole pipeline run shares one such cache."""


@dataclass(frozen=True)
class Reporting:
    """Makers of progress bars (by component) and of MLflow runs (by component, fingerprint and work folder)."""

    progress: Callable[[str], Progress]
    tracking: Callable[[str, str, str], AbstractContextManager[Tracker]]


@dataclass(frozen=True)
class Result:
    """A component's artifact, `reused` where it existed before, and the seconds this call took."""

    artifact: Artifact
    reused: bool
    seconds: float


@dataclass(frozen=True)
class Request:
    """A component to run, with its inputs, the settings that change the result, and the fingerprint."""

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
        """The folder of unfinished work, kept over attempts."""
        return io.join(self.root, ".work", self.name, self.fingerprint)

    @property
    def leases(self) -> str:
        """The folder of the leases; not in the work folder, which is removed while it is owned."""
        return usage.folder(self.root, self.name, self.fingerprint)

    @property
    def folder(self) -> str:
        """The artifact's folder."""
        return store.folder(self.root, self.name, self.fingerprint)

    def stored(self) -> Artifact | None:
        """The artifact, if it exists."""
        return store.load(self.root, self.name, self.fingerprint)


def find(name: str, config: PipelineConfig, cache: ArtifactCache | None = None) -> Artifact | None:
    """The artifact of `name` under this config, or None where it or something before it was not made yet."""
    return _find(name, config, {} if cache is None else cache, set())


def prepare(name: str, config: PipelineConfig, cache: ArtifactCache | None = None) -> Request:
    """The component with its inputs looked up. Raises `DataError` where an input was not made yet."""
    inputs: dict[str, Artifact] = {}
    for key, source in registry.inputs_of(name, config.components, config).items():
        artifact = find(source, config, cache)
        if artifact is None:
            line = command("run", source, preset=config.preset)
            raise DataError(f"{name} needs the output of {source}, which was not made with these settings: `{line}`")
        inputs[key] = artifact
    return _request(name, config, inputs)


def execute(
    name: str, config: PipelineConfig, reporting: Reporting, force: bool = False, cache: ArtifactCache | None = None
) -> Result:
    """Make the artifact of `name`, or return the one that exists.

    `force` makes it again. Raises `DataError` when an input was not made yet, `StorageError` when the root cannot be
    used or is full, and whatever the component raises; then no manifest exists, and work worth resuming is kept.
    """
    began = time.monotonic()
    cache = {} if cache is None else cache
    request = prepare(name, config, cache)
    artifact, reused = request.stored(), True
    if artifact is not None:
        # Touched before the second load, so that garbage collection cannot remove it in between.
        usage.touch(request.leases)
        artifact = request.stored()
    if artifact is None or force:
        artifact, reused = _make(request, reporting, force, cache)
    for later in registry.NAMES[registry.NAMES.index(name) :]:
        cache.pop(later, None)
    cache[name] = artifact
    return Result(artifact, reused, time.monotonic() - began)


def _find(name: str, config: PipelineConfig, cache: ArtifactCache, missing: set[str]) -> Artifact | None:
    if name in cache or name in missing:
        return cache.get(name)
    sources = registry.inputs_of(name, config.components, config)
    inputs = {key: artifact for key, source in sources.items() if (artifact := _find(source, config, cache, missing))}
    artifact = _request(name, config, inputs).stored() if len(inputs) == len(sources) else None
    if artifact is None:
        missing.add(name)
    else:
        cache[name] = artifact
    return artifact


def _request(name: str, config: PipelineConfig, inputs: dict[str, Artifact]) -> Request:
    module, component_config = registry.component(name), getattr(config, name)
    settings = fingerprint.result_settings(component_config)
    source_state = getattr(module, "source_state", None)
    source = source_state(component_config) if source_state is not None else ""
    codes_of = getattr(module, "CODES_OF", ())
    key = fingerprint.fingerprint(name, module.VERSION, settings, inputs, source, codes_of)
    return Request(name, module, config, settings, inputs, key)


def _make(request: Request, reporting: Reporting, force: bool, cache: ArtifactCache) -> tuple[Artifact, bool]:
    """Run the component under the lease of its work; returns its artifact, and True where another run had made it."""
    progress = reporting.progress(request.name)
    with store.guarded(request.root):
        io.make_folder(request.leases)
    with lease.hold(request.leases, progress.note) as held:
        existing = request.stored()
        if existing is not None and not force:
            return existing, True
        # Artifacts that this run has looked up so far must not be removed before later components need them.
        usage.record_inputs(request.leases, [*cache.values(), *request.inputs.values()])
        usage.verify_inputs(request.root, request.name, request.inputs)
        with store.guarded(request.root):
            if held.dead is not None and (existing is None or existing.manifest.attempt != held.dead):
                # The data of an attempt whose process died: no manifest names it, and no process writes there any more.
                io.remove_tree(io.join(request.folder, f"data-{held.dead}"))
            io.make_folder(request.work)
        tracking = reporting.tracking(request.name, request.fingerprint, request.work)
        with tracking as tracker, _attempt_folder(request, held) as out:
            began, config = time.monotonic(), request.config
            context = Context(
                request.name, request.fingerprint, request.work, out, config.run, config, progress, tracker
            )
            outcome = request.module.run(getattr(config, request.name), request.inputs, context)
            manifest = _manifest(request, context, outcome, time.monotonic() - began, held.owner.token)
            held.check()
            if existing is not None:
                store.retire(request.root, existing)
            artifact, won = store.commit(request.root, manifest)
            if not won:
                _discard(request, out, manifest.attempt)
        if held.owned():
            with store.guarded(request.root):
                io.remove_tree(request.work)
    return artifact, not won


@contextlib.contextmanager
def _attempt_folder(request: Request, held: lease.Lease) -> Iterator[str]:
    """The folder of the attempt's data; removed after a failure unless a manifest names it."""
    out = io.join(request.folder, f"data-{held.owner.token}")
    with store.guarded(request.root):
        io.make_folder(out)
    try:
        yield out
    except BaseException as error:
        _discard(request, out, held.owner.token)
        storage_error = None if isinstance(error, VimError) else store.storage_error(error, request.root)
        if storage_error is not None:
            raise storage_error from error
        raise


def _discard(request: Request, out: str, attempt: str) -> None:
    """Remove an attempt's data unless a manifest names it: an interrupt may come right after the commit."""
    # The first failure is the one to report, not a second one during the clean-up.
    with contextlib.suppress(OSError, VimError):
        existing = request.stored()
        if existing is None or existing.manifest.attempt != attempt:
            io.remove_tree(out)


def _manifest(request: Request, context: Context, outcome: Outcome, seconds: float, attempt: str) -> Manifest:
    files = store.files_in(context.out, f"data-{attempt}", outcome.rows)
    unwritten = sorted((set(outcome.rows) | outcome.extras) - {entry.name for entry in files})
    if unwritten:
        raise ValueError(f"{request.name} names files it did not write: {', '.join(unwritten)}")
    hashed = [(entry.name, entry.sha256) for entry in files if entry.name not in outcome.extras]
    if not hashed and outcome.digest is None:
        raise ValueError(f"{request.name} wrote no file that a digest could be taken of")
    for key, value in outcome.metrics.items():
        if not math.isfinite(value):
            raise DataError(f"{request.name}: the metric {key} is {value}, which is not finite; nothing committed")
    own = code.current()
    return Manifest(
        component=request.name,
        version=request.module.VERSION,
        fingerprint=request.fingerprint,
        digest=outcome.digest or fingerprint.merkle(hashed),
        config=request.settings,
        inputs={key: artifact.record for key, artifact in request.inputs.items()},
        files=files,
        metrics={key: float(value) for key, value in outcome.metrics.items()},
        properties={**outcome.properties, "code": f"{own.version} {own.digest}"},
        protocols=outcome.protocols,
        numeric=outcome.numeric,
        seconds=round(seconds, 3),
        attempt=attempt,
        created=datetime.now(UTC).isoformat(),
        mlflow_run_id=context.tracker.run_id,
    )
