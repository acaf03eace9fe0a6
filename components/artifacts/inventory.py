"""The content of an artifact root: versions of artifacts, pins, reports, living owners, unfinished work."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeVar

from components.artifacts import lease, store, usage
from components.contract import registry
from components.contract.api import Artifact, ArtifactKey, InputRecord
from vim_core.errors import DataError
from vim_core.storage import io

Files = dict[str, dict[str, Any]]
"""Files by path, each with what the store says of it (`size`, time of modification)."""
VersionKey = tuple[str, str, str]
"""Component, fingerprint and attempt."""
R = TypeVar("R")

FINGERPRINT = re.compile(r"[0-9a-f]{20}")
SET_ASIDE = re.compile(r"(manifest|removed)-[^/]*\.json")
REMOVED = "removed-"
"""Begins the name of a manifest that the garbage collector has set aside; `store.retire` writes `manifest-…`."""
WORK, REPORTS, SWEEPS = ".work", "reports", "sweeps"
THREADS = 16
SHORT = 8
"""Digits of a fingerprint or digest that people read and type."""


@dataclass(frozen=True)
class Version:
    """An artifact as one manifest file describes it; `since` is when it was made, replaced or last used (Unix time)."""

    artifact: Artifact
    file: str
    since: float

    @property
    def key(self) -> ArtifactKey:
        """Component and fingerprint."""
        return self.artifact.manifest.key

    @property
    def unique_key(self) -> VersionKey:
        """Component, fingerprint and attempt, which no two versions share."""
        return (*self.key, self.artifact.manifest.attempt)

    @property
    def current(self) -> bool:
        """True if readers find it."""
        return self.file == store.MANIFEST

    @property
    def removed(self) -> bool:
        """True if the garbage collector has set it aside."""
        return self.file.startswith(REMOVED)

    @property
    def paths(self) -> set[str]:
        """The paths of its files, below the artifact's folder."""
        return {entry.path for entry in self.artifact.manifest.files}


@dataclass(frozen=True)
class Inventory:
    """The content of a root at one time.

    Attributes:
        root: path or URI.
        versions: every manifest, current or set aside.
        files: the files in each artifact's folder.
        pins: the pins of artifacts.
        reports: the artifacts of each preset's last report.
        owners: living owners of leases, as text for people.
        work: the files of unfinished work.
        recorded: the inputs that owners and unfinished work have recorded; None where one did not.
        sweeps: the artifacts of each sweep's results.
    """

    root: str
    versions: list[Version]
    files: dict[ArtifactKey, Files]
    pins: dict[ArtifactKey, usage.Pin]
    reports: dict[str, list[InputRecord]]
    owners: dict[ArtifactKey, str]
    work: dict[ArtifactKey, Files]
    recorded: dict[ArtifactKey, list[InputRecord] | None]
    sweeps: dict[str, list[InputRecord]] = field(default_factory=dict)


def survey(root: str) -> Inventory:
    """Read a whole root. Files that may vanish are read before their replacements, so that no use is missed.

    Raises:
        DataError: a manifest, pin or report is damaged: what it needs cannot be known.
        StorageError: the root cannot be read.
    """
    with store.guarded(root):
        leases = _files_by_key(io.join(root, usage.LEASES))
        work = _files_by_key(io.join(root, WORK))
        owners = _by_key(root, lambda key: lease.living_owner(usage.folder(root, *key)), {*leases, *work})
        living = {key: owner for key, owner in owners.items() if owner}
        recorded = _by_key(root, lambda key: usage.read_inputs(usage.folder(root, *key)), {*living, *work})
        files: dict[ArtifactKey, Files] = {}
        for name in registry.NAMES:
            files |= _files_by_key(io.join(root, name), name)
    by_key = _by_key(root, lambda key: _versions(root, key, files[key], leases.get(key, {})), files)
    versions = [version for each in by_key.values() for version in each]
    pinned = read_pins(root, (version.key for version in versions))
    reports, sweeps = published(root, REPORTS), published(root, SWEEPS)
    return Inventory(root, versions, files, pinned, reports, living, work, recorded, sweeps)


def artifacts(root: str, component: str = "") -> list[Artifact]:
    """All artifacts, or those of one component, newest first. Raises `DataError`, `StorageError`."""
    if component:
        registry.component(component)
    names = [component] if component else registry.NAMES
    with store.guarded(root):
        keys = [
            (name, key) for name in names for key in io.list_names(io.join(root, name)) if FINGERPRINT.fullmatch(key)
        ]
    loaded = _by_key(root, lambda key: store.load(root, *key), keys).values()
    return sorted((artifact for artifact in loaded if artifact is not None), key=created_at, reverse=True)


def short(hexadecimal: str) -> str:
    """The first digits of a fingerprint or digest."""
    return hexadecimal[:SHORT]


def short_name(key: ArtifactKey) -> str:
    """`component/` and the first digits of the fingerprint."""
    return f"{key[0]}/{short(key[1])}"


def read_pins(root: str, keys: Iterable[ArtifactKey]) -> dict[ArtifactKey, usage.Pin]:
    """The pins of these artifacts, without those that are not pinned. Raises `DataError`, `StorageError`."""
    by_key = _by_key(root, lambda key: usage.read_pin(root, *key), set(keys))
    return {key: pin for key, pin in by_key.items() if pin}


def published(root: str, folder: str) -> dict[str, list[InputRecord]]:
    """The artifacts of each preset's last report (`folder` is `REPORTS`) or of each sweep's results (`SWEEPS`).

    Raises `DataError` for a record that does not name them.
    """
    published: dict[str, list[InputRecord]] = {}
    with store.guarded(root):
        for name in io.list_names(io.join(root, folder)):
            uri = io.join(root, folder, name, "results.json")
            try:
                named = json.loads(io.read_bytes(uri))["artifacts"]
                # A report has one artifact of a component, a sweep a list of them.
                published[name] = [
                    InputRecord(component, str(entry["fingerprint"]), str(entry["digest"]))
                    for component, entries in named.items()
                    for entry in (entries if isinstance(entries, list) else [entries])
                ]
            except (FileNotFoundError, NotADirectoryError):
                continue
            except (AttributeError, KeyError, TypeError, ValueError) as error:
                problem = f"does not say which artifacts it is of ({error!r})"
                remedy = f"run the {'preset' if folder == REPORTS else 'sweep'} again or remove the folder"
                raise DataError(f"{uri}: {problem}; {remedy}") from error
    return published


def created_at(artifact: Artifact) -> float:
    """The time when it was made, in Unix seconds."""
    return datetime.fromisoformat(artifact.manifest.created).timestamp()


def is_published(artifact: Artifact, records: Iterable[InputRecord]) -> bool:
    """True for the artifact of `report` that a published record, with these artifacts, was taken from."""
    inputs = set(artifact.manifest.inputs.values())
    return artifact.manifest.component == "report" and inputs == set(records)


def newest_mtime(files: Files) -> float:
    """The time when the youngest of these files was written, in Unix seconds."""
    return max(io.mtime_of(info) for info in files.values())


def _versions(root: str, key: ArtifactKey, files: Files, lease_files: Files) -> list[Version]:
    folder = store.folder(root, *key)
    used = io.mtime_of(lease_files[usage.USED]) if usage.USED in lease_files else 0.0
    versions: list[Version] = []
    for name in sorted(name for name in files if name == store.MANIFEST or SET_ASIDE.fullmatch(name)):
        uri = io.join(folder, name)
        data = io.read_optional(uri)
        if data is None:
            continue
        artifact = Artifact(folder, store.parse(data, uri))
        if artifact.manifest.key != key:
            raise DataError(f"{uri}: belongs to {artifact.name}; move it back or remove it")
        replaced = io.mtime_of(files[name]) if name.startswith("manifest-") else 0.0
        versions.append(Version(artifact, name, max(created_at(artifact), used, replaced)))
    return versions


def _files_by_key(uri: str, component: str = "") -> dict[ArtifactKey, Files]:
    """Files below `uri`, which holds folders of components, or below the folder of one component."""
    by_key: dict[ArtifactKey, Files] = {}
    for path, info in _walk(uri).items():
        parts = f"{component}/{path}".lstrip("/").split("/", 2)
        if len(parts) == 3 and parts[0] in registry.NAMES and FINGERPRINT.fullmatch(parts[1]):
            by_key.setdefault((parts[0], parts[1]), {})[parts[2]] = info
    return by_key


def _walk(uri: str) -> Files:
    """`io.find_files`, but an unreadable local folder is an error: another user may work there."""
    if not io.is_local(uri):
        return io.find_files(uri)

    def stop(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):
            raise error

    base = io.absolute(uri)
    files: Files = {}
    for folder, _, names in os.walk(base, onerror=stop):
        for path in (os.path.join(folder, name) for name in names):
            with contextlib.suppress(FileNotFoundError):
                status = os.lstat(path)
                files[path.removeprefix(f"{base}/")] = {"size": status.st_size, "mtime": status.st_mtime}
    return dict(sorted(files.items()))


def _by_key(root: str, act: Callable[[ArtifactKey], R], keys: Iterable[ArtifactKey]) -> dict[ArtifactKey, R]:
    """The results by key, sorted; of a remote root many at once, because every answer takes a while."""
    ordered = sorted(keys)
    if io.is_local(root):
        return {key: act(key) for key in ordered}
    with ThreadPoolExecutor(THREADS) as pool:
        return dict(zip(ordered, pool.map(act, ordered), strict=True))
