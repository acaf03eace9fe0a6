"""What could be removed from a root, each with its size and reason; nothing is touched here."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from components.artifacts import store
from components.artifacts.gc import checkpoints
from components.artifacts.gc.reachability import reachable, version_key
from components.artifacts.inventory import WORK, ArtifactKey, Files, Inventory, Version, newest_mtime
from components.contract import registry
from vim_core.errors import ConfigError
from vim_core.storage import io

ARTIFACT, REPLACED, ATTEMPT, UNFINISHED, CHECKPOINT = "artifact", "replaced", "attempt", "work", "checkpoint"
KINDS = (ARTIFACT, REPLACED, ATTEMPT, UNFINISHED, CHECKPOINT)


@dataclass(frozen=True)
class Rules:
    """What is old: nothing made, written or used in the last `older_than_s` seconds is removed.

    Of the checkpoints of work that nobody goes on with now, the `checkpoints` newest whole ones stay, however old
    the others are.
    """

    older_than_s: float = 7 * 86400.0
    checkpoints: int = 1
    now: float = field(default_factory=time.time)

    def __post_init__(self) -> None:
        if self.older_than_s < 0:
            raise ConfigError(f"--older-than={self.older_than_s:g}s: must not be negative")
        if self.checkpoints < 1:
            raise ConfigError(f"--checkpoints={self.checkpoints}: at least 1 has to stay to go on from")

    @property
    def limit(self) -> float:
        """Unix time before which something is old."""
        return self.now - self.older_than_s


@dataclass(frozen=True)
class Removal:
    """Something to remove: its files by path below the root, sizes in bytes, and why nobody needs it."""

    kind: str
    place: ArtifactKey
    what: str
    files: dict[str, int]
    reason: str
    version: Version | None = None

    @property
    def bytes(self) -> int:
        """Of all files."""
        return sum(self.files.values())


def plan_removals(found: Inventory, rules: Rules) -> list[Removal]:
    """Everything removable, what was made of something before that; never of a place with a living owner."""
    kept = reachable(found, rules.limit)
    useless = [v for v in found.versions if version_key(v) not in kept and v.place not in found.owners]
    useless.sort(key=lambda v: (registry.NAMES.index(v.place[0]), v.artifact.manifest.created), reverse=True)
    return [
        *(_version(found, version) for version in useless),
        *_attempts(found, rules),
        *_unfinished(found, rules),
    ]


def _version(found: Inventory, version: Version) -> Removal:
    others = [v for v in found.versions if v.place == version.place and v.file != version.file]
    named = {path for other in others for path in other.paths}
    there = found.files[version.place]
    paths = [version.file, *sorted(version.paths & set(there) - named)]
    files = {f"{'/'.join(version.place)}/{path}": _size(there, path) for path in paths}
    replaced = any(other.current for other in others)
    reason = "another took its place" if replaced else "no pin, report, run or kept artifact needs it"
    return Removal(REPLACED if replaced else ARTIFACT, version.place, version.file, files, reason, version)


def _attempts(found: Inventory, rules: Rules) -> Iterator[Removal]:
    """Files in artifact folders that no manifest names, by the attempt that left them."""
    named: dict[ArtifactKey, set[str]] = {}
    for version in found.versions:
        named.setdefault(version.place, set()).update(version.paths, [version.file])
    for place, files in found.files.items():
        groups: dict[str, list[str]] = {}
        for path in sorted(set(files) - named.get(place, set())):
            groups.setdefault(path.split("/")[0], []).append(path)
        for group, paths in groups.items():
            if place not in found.owners and newest_mtime({path: files[path] for path in paths}) <= rules.limit:
                sizes = {f"{'/'.join(place)}/{path}": _size(files, path) for path in paths}
                yield Removal(ATTEMPT, place, group, sizes, "no manifest names it")


def _unfinished(found: Inventory, rules: Rules) -> Iterator[Removal]:
    for place, files in found.work.items():
        if place in found.owners:
            continue
        below = f"{WORK}/{'/'.join(place)}"
        if newest_mtime(files) <= rules.limit:
            done = any(version.place == place and version.current for version in found.versions)
            reason = "its artifact is finished" if done else "nobody went on with it"
            sizes = {f"{below}/{path}": _size(files, path) for path in sorted(files)}
            yield Removal(UNFINISHED, place, "", sizes, reason)
            continue
        with store.guarded(found.root):
            old = checkpoints.superfluous_checkpoints(io.join(found.root, below), files, rules.checkpoints)
        for step, paths in old.items():
            sizes = {f"{below}/{path}": _size(files, path) for path in paths}
            yield Removal(CHECKPOINT, place, step, sizes, "a newer whole one is there")


def _size(files: Files, path: str) -> int:
    return int(files[path].get("size") or 0)
