"""The plan of a garbage collection: each removable thing with its size and reason; nothing is touched here."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from components.artifacts import store
from components.artifacts.gc import checkpoints
from components.artifacts.gc.reachability import reachable, version_key
from components.artifacts.inventory import WORK, Files, Inventory, Version, newest_mtime
from components.contract import registry
from components.contract.api import ArtifactKey
from vim_core.errors import ConfigError
from vim_core.storage import io

ARTIFACT, REPLACED, ATTEMPT, UNFINISHED, CHECKPOINT = "artifact", "replaced", "attempt", "work", "checkpoint"
KINDS = (ARTIFACT, REPLACED, ATTEMPT, UNFINISHED, CHECKPOINT)


@dataclass(frozen=True)
class Rules:
    """The limits of a collection: nothing made, written or used in the last `older_than_s` seconds is removed.

    Of the checkpoints of unfinished work that nobody continues now, the `checkpoints` newest whole ones stay, however
    old the others are.
    """

    older_than_s: float = 7 * 86400.0
    checkpoints: int = 1
    now: float = field(default_factory=time.time)

    def __post_init__(self) -> None:
        if self.older_than_s < 0:
            raise ConfigError(f"--older-than={self.older_than_s:g}s: must not be negative")
        if self.checkpoints < 1:
            raise ConfigError(f"--checkpoints={self.checkpoints}: at least 1 has to be kept")

    @property
    def limit(self) -> float:
        """Unix time before which something is old."""
        return self.now - self.older_than_s


@dataclass(frozen=True)
class Removal:
    """Something to remove.

    Attributes:
        kind: one of `KINDS`.
        key: the artifact that it belongs to.
        what: the manifest's file, the attempt's folder or the checkpoint's; '' for a whole work folder.
        files: sizes in bytes by path below the root.
        reason: the reason why it is not needed.
        version: of an artifact, the version that is removed.
    """

    kind: str
    key: ArtifactKey
    what: str
    files: dict[str, int]
    reason: str
    version: Version | None = None

    @property
    def bytes(self) -> int:
        """Size of all files."""
        return sum(self.files.values())


def plan_removals(inventory: Inventory, rules: Rules) -> list[Removal]:
    """Return all removals, artifacts before those they were made from; none has a living owner."""
    kept = reachable(inventory, rules.limit)
    garbage = [v for v in inventory.versions if version_key(v) not in kept and v.key not in inventory.owners]
    garbage.sort(key=lambda v: (registry.NAMES.index(v.key[0]), v.artifact.manifest.created), reverse=True)
    return [
        *(_version_removal(inventory, version) for version in garbage),
        *_attempt_removals(inventory, rules),
        *_work_removals(inventory, rules),
    ]


def _version_removal(inventory: Inventory, version: Version) -> Removal:
    others = [v for v in inventory.versions if v.key == version.key and v.file != version.file]
    shared = {path for other in others for path in other.paths}
    files = inventory.files[version.key]
    # The manifest before the files it names.
    paths = [version.file, *sorted(version.paths & set(files) - shared)]
    replaced = any(other.current for other in others)
    reason = "another one replaced it" if replaced else "no pin, report, run or kept artifact needs it"
    sizes = _sizes("/".join(version.key), paths, files)
    return Removal(REPLACED if replaced else ARTIFACT, version.key, version.file, sizes, reason, version)


def _attempt_removals(inventory: Inventory, rules: Rules) -> Iterator[Removal]:
    """Files in artifact folders that no manifest names, by the attempt that left them."""
    named: dict[ArtifactKey, set[str]] = {}
    for version in inventory.versions:
        named.setdefault(version.key, set()).update(version.paths, [version.file])
    for key, files in inventory.files.items():
        attempts: dict[str, list[str]] = {}
        for path in sorted(set(files) - named.get(key, set())):
            attempts.setdefault(path.split("/")[0], []).append(path)
        for attempt, paths in attempts.items():
            if key not in inventory.owners and newest_mtime({path: files[path] for path in paths}) <= rules.limit:
                yield Removal(ATTEMPT, key, attempt, _sizes("/".join(key), paths, files), "no manifest names it")


def _work_removals(inventory: Inventory, rules: Rules) -> Iterator[Removal]:
    """Old work folders, and superfluous checkpoints of younger ones."""
    for key, files in inventory.work.items():
        if key in inventory.owners:
            continue
        folder = f"{WORK}/{'/'.join(key)}"
        if newest_mtime(files) <= rules.limit:
            finished = any(version.key == key and version.current for version in inventory.versions)
            reason = "its artifact is finished" if finished else "it was not continued"
            yield Removal(UNFINISHED, key, "", _sizes(folder, sorted(files), files), reason)
            continue
        with store.guarded(inventory.root):
            superfluous = checkpoints.superfluous_checkpoints(io.join(inventory.root, folder), files, rules.checkpoints)
        for checkpoint, paths in superfluous.items():
            yield Removal(CHECKPOINT, key, checkpoint, _sizes(folder, paths, files), "a newer whole one is there")


def _sizes(folder: str, paths: list[str], files: Files) -> dict[str, int]:
    """Sizes in bytes of these files of a folder, by path below the root."""
    return {f"{folder}/{path}": int(files[path].get("size") or 0) for path in paths}
