"""What lies in an artifact root: versions of artifacts, pins, reports, living owners, unfinished work."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeVar

from components.artifacts import lease, pins, store, usage
from components.contract import registry
from components.contract.api import Artifact, InputRecord
from vim_core.errors import DataError
from vim_core.storage import io

ArtifactKey = tuple[str, str]
"""Component and fingerprint."""
Files = dict[str, dict[str, Any]]
"""What the store says of files, by path."""
T = TypeVar("T")
R = TypeVar("R")

FINGERPRINT = re.compile(r"[0-9a-f]{20}")
ASIDE = re.compile(r"(manifest|removed)-[^/]*\.json")
REMOVED = "removed-"
"""Begins the name of a manifest that the remover has set aside; `store.retire` writes `manifest-…`."""
WORK, REPORTS, SWEEPS = ".work", "reports", "sweeps"
AT_ONCE = 16


@dataclass(frozen=True)
class Version:
    """An artifact as one manifest file describes it; `since` is when it was made, replaced or last used (Unix time)."""

    artifact: Artifact
    file: str
    since: float

    @property
    def place(self) -> ArtifactKey:
        """Where it lies."""
        return self.artifact.manifest.component, self.artifact.manifest.fingerprint

    @property
    def current(self) -> bool:
        """Whether readers find it."""
        return self.file == store.MANIFEST

    @property
    def condemned(self) -> bool:
        """Whether the remover has set it aside."""
        return self.file.startswith(REMOVED)

    @property
    def paths(self) -> set[str]:
        """Its files, below the artifact's folder."""
        return {entry.path for entry in self.artifact.manifest.files}

    @property
    def bytes(self) -> int:
        """Of all its files."""
        return sum(entry.bytes for entry in self.artifact.manifest.files)


@dataclass(frozen=True)
class Inventory:
    """One look at a root.

    `reports` is by preset what its last report was made of, `sweeps` by name what a sweep's results are of; `users`
    what runs announced, None where one did not.
    """

    root: str
    versions: list[Version]
    files: dict[ArtifactKey, Files]
    pins: dict[ArtifactKey, pins.Pin]
    reports: dict[str, list[InputRecord]]
    owners: dict[ArtifactKey, str]
    work: dict[ArtifactKey, Files]
    users: dict[ArtifactKey, list[InputRecord] | None]
    sweeps: dict[str, list[InputRecord]] = field(default_factory=dict)


def survey(root: str) -> Inventory:
    """Everything there. What may vanish is read before what takes its place, so that no use falls between.

    Raises:
        DataError: a manifest, pin or report is damaged: what it needs cannot be known.
        StorageError: the root cannot be read.
    """
    with store.guarded(root):
        leases = _by_place(io.join(root, usage.LEASES))
        work = _by_place(io.join(root, WORK))
        places = sorted({*leases, *work})
        found = _each(root, lambda place: lease.living_owner(usage.folder(root, *place)), places)
        owners = {place: owner for place, owner in zip(places, found, strict=True) if owner}
        using = sorted({*owners, *work})
        users = dict(
            zip(using, _each(root, lambda place: usage.read_inputs(usage.folder(root, *place)), using), strict=True)
        )
        files = {(name, key): each for name in registry.NAMES for key, each in _by_key(io.join(root, name)).items()}
    versions = [
        version
        for each in _each(root, lambda p: _versions(root, p, files[p], leases.get(p, {})), files)
        for version in each
    ]
    current = sorted({version.place for version in versions})
    pinned = zip(current, _each(root, lambda place: pins.read(root, *place), current), strict=True)
    kept = {place: pin for place, pin in pinned if pin}
    return Inventory(root, versions, files, kept, reports(root), owners, work, users, sweeps(root))


def artifacts(root: str, component: str = "") -> list[Artifact]:
    """The artifacts there are, of one component or of all, newest first. Raises `DataError`, `StorageError`."""
    if component:
        registry.component(component)
    names = [component] if component else registry.NAMES
    with store.guarded(root):
        places = [(n, key) for n in names for key in io.list_names(io.join(root, n)) if FINGERPRINT.fullmatch(key)]
    found = [made for made in _each(root, lambda place: store.load(root, *place), places) if made is not None]
    return sorted(found, key=lambda made: _time(made.manifest.created), reverse=True)


def pins_of(root: str, made: Iterable[Artifact]) -> dict[ArtifactKey, pins.Pin]:
    """The pins of these artifacts."""
    places = [(a.manifest.component, a.manifest.fingerprint) for a in made]
    found = _each(root, lambda place: pins.read(root, *place), places)
    return {place: pin for place, pin in zip(places, found, strict=True) if pin}


def reports(root: str) -> dict[str, list[InputRecord]]:
    """By preset, what its last report was made of. Raises `DataError` for a record that does not say."""
    return _published(root, REPORTS, "run the preset")


def sweeps(root: str) -> dict[str, list[InputRecord]]:
    """By name, what a sweep's results are of. Raises `DataError` for a record that does not say."""
    return _published(root, SWEEPS, "run the sweep")


def _published(root: str, folder: str, remedy: str) -> dict[str, list[InputRecord]]:
    found: dict[str, list[InputRecord]] = {}
    with store.guarded(root):
        for name in io.list_names(io.join(root, folder)):
            uri = io.join(root, folder, name, "results.json")
            try:
                found[name] = list(_used(json.loads(io.read_bytes(uri))))
            except (FileNotFoundError, NotADirectoryError):
                continue
            except (AttributeError, KeyError, TypeError, ValueError) as error:
                what = f"does not say which artifacts it is of ({error!r})"
                raise DataError(f"{uri}: {what}; {remedy} again or remove the folder") from error
    return found


def created_at(artifact: Artifact) -> float:
    """When it was made, in Unix seconds."""
    return _time(artifact.manifest.created)


def is_published(made: Artifact, record: Iterable[InputRecord]) -> bool:
    """Whether this is the artifact of `report` that a published record was taken from."""
    inputs = made.manifest.inputs.values()
    return made.manifest.component == "report" and {(i.component, i.fingerprint, i.digest) for i in inputs} == {
        (i.component, i.fingerprint, i.digest) for i in record
    }


def newest_mtime(files: Files) -> float:
    """When the youngest of these files was written, in Unix seconds."""
    return max(io.mtime_of(info) for info in files.values())


def _used(results: Mapping[str, Any]) -> Iterator[InputRecord]:
    """One artifact of a component in a report, in a sweep's results a list of them."""
    for name, given in results["artifacts"].items():
        for entry in given if isinstance(given, list) else [given]:
            yield InputRecord(name, str(entry["fingerprint"]), str(entry["digest"]))


def _versions(root: str, place: ArtifactKey, files: Files, lease_files: Files) -> list[Version]:
    folder = store.folder(root, *place)
    used = io.mtime_of(lease_files[usage.USED]) if usage.USED in lease_files else 0.0
    found: list[Version] = []
    for name in sorted(name for name in files if name == store.MANIFEST or ASIDE.fullmatch(name)):
        uri = io.join(folder, name)
        try:
            manifest = store.parse(io.read_bytes(uri), uri)
        except FileNotFoundError:
            continue
        if (manifest.component, manifest.fingerprint) != place:
            raise DataError(f"{uri}: belongs to {manifest.component}/{manifest.fingerprint}; move it back or remove it")
        replaced = io.mtime_of(files[name]) if name.startswith("manifest-") else 0.0
        found.append(Version(Artifact(folder, manifest), name, max(_time(manifest.created), used, replaced)))
    return found


def _by_place(uri: str) -> dict[ArtifactKey, Files]:
    """Files below `uri` by the component and fingerprint in their path."""
    found: dict[ArtifactKey, Files] = {}
    for path, info in _listed(uri).items():
        component, _, rest = path.partition("/")
        key, _, name = rest.partition("/")
        if component in registry.NAMES and FINGERPRINT.fullmatch(key) and name:
            found.setdefault((component, key), {})[name] = info
    return found


def _by_key(uri: str) -> dict[str, Files]:
    found: dict[str, Files] = {}
    for path, info in _listed(uri).items():
        key, _, name = path.partition("/")
        if FINGERPRINT.fullmatch(key) and name:
            found.setdefault(key, {})[name] = info
    return found


def _listed(uri: str) -> Files:
    """`io.files`, which on a local disk would leave out what it may not read: somebody may work just there."""
    if not io.is_local(uri):
        return io.find_files(uri)

    def stop(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):
            raise error

    base = str(io.local_path(uri).absolute())
    found: Files = {}
    for folder, _, names in os.walk(base, onerror=stop):
        for path in (os.path.join(folder, name) for name in names):
            with contextlib.suppress(FileNotFoundError):
                about = os.lstat(path)
                found[path.removeprefix(f"{base}/")] = {"size": about.st_size, "mtime": about.st_mtime}
    return dict(sorted(found.items()))


def _each(root: str, act: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """The results in order; of a remote root many at once, because every answer takes a while."""
    if io.is_local(root):
        return [act(item) for item in items]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(act, items))


def _time(created: str) -> float:
    return datetime.fromisoformat(created).timestamp()
