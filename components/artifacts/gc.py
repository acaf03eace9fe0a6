"""Garbage collection of an artifact root that other processes use at the same time: a plan, then the removal.

1. The first survey makes the plan. 2. The manifests of unneeded artifacts are set aside, derived artifacts
before their sources: readers see each artifact whole or not at all. 3. A second survey: what a pin, a report or a run
needs by now is put back (runs record their inputs first and verify them afterwards, see `usage`). 4. Only
then files are removed, a set-aside manifest before the files it names.

Every act on an artifact or its work happens under its lease, taken only where no living owner has it. After a kill at
any moment readers find whole artifacts, and the next collection goes on.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from components.artifacts import lease, store, usage
from components.artifacts.ancestry import reachable
from components.artifacts.inventory import REMOVED, WORK, Files, Inventory, Version, VersionKey, newest_mtime, survey
from components.contract import registry
from components.contract.api import ArtifactKey
from vim_core.errors import ConfigError
from vim_core.storage import io

ARTIFACT, REPLACED, ATTEMPT, UNFINISHED, CHECKPOINT = "artifact", "replaced", "attempt", "work", "checkpoint"
KINDS = (ARTIFACT, REPLACED, ATTEMPT, UNFINISHED, CHECKPOINT)
BEST, INDEX, STEP = "best.json", "index.json", "step-"
"""Names in a folder of checkpoints."""


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


@dataclass(frozen=True)
class Collection:
    """Removals, done or planned, names of artifacts put back, and names of those left because of a lease."""

    removals: list[Removal]
    restored: list[str]
    busy: list[str]

    def totals(self) -> dict[str, int]:
        """Bytes by kind."""
        return {kind: sum(each.bytes for each in self.removals if each.kind == kind) for kind in KINDS}


def collect(root: str, rules: Rules, delete: bool = False, between: Callable[[], None] = lambda: None) -> Collection:
    """The plan, or with `delete` what was removed. `between` is called before the second survey.

    Raises:
        DataError: a damaged file in the root hides what is needed; nothing is removed then.
        StorageError: the root cannot be read or written.
    """
    planned = plan_removals(survey(root), rules)
    if not delete:
        return Collection(planned, [], [])
    versions = [removal.version for removal in planned if removal.version is not None]
    busy = [version.artifact.name for version in versions if not _set_aside(root, version)]
    between()
    inventory = survey(root)
    restored = _restore(inventory, reachable(inventory, rules.limit))
    removed: list[Removal] = []
    for removal in plan_removals(inventory, rules):
        if removal.version is not None and not removal.version.removed:
            continue  # It became garbage only now; the next collection removes it.
        if _remove(root, removal, rules):
            removed.append(removal)
        else:
            busy.append("/".join(removal.key))
    return Collection(removed, restored, sorted(set(busy)))


def plan_removals(inventory: Inventory, rules: Rules) -> list[Removal]:
    """Return all removals, artifacts before those they were made from; none has a living owner."""
    kept = reachable(inventory, rules.limit)
    garbage = [v for v in inventory.versions if v.unique_key not in kept and v.key not in inventory.owners]
    garbage.sort(key=lambda v: (registry.NAMES.index(v.key[0]), v.artifact.manifest.created), reverse=True)
    removals: list[Removal] = []
    for version in garbage:
        others = [v for v in inventory.versions if v.key == version.key and v.file != version.file]
        shared = {path for other in others for path in other.paths}
        files = inventory.files[version.key]
        # The manifest before the files it names.
        paths = [version.file, *sorted(version.paths & set(files) - shared)]
        kind, reason = ARTIFACT, "no pin, report, run or kept artifact needs it"
        if any(other.current for other in others):
            kind, reason = REPLACED, "another one replaced it"
        sizes = _sizes("/".join(version.key), paths, files)
        removals.append(Removal(kind, version.key, version.file, sizes, reason, version))
    return [*removals, *_attempt_removals(inventory, rules), *_work_removals(inventory, rules)]


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
            superfluous = _superfluous_checkpoints(io.join(inventory.root, folder), files, rules.checkpoints)
        for checkpoint, paths in superfluous.items():
            yield Removal(CHECKPOINT, key, checkpoint, _sizes(folder, paths, files), "a newer whole one is there")


def _sizes(folder: str, paths: list[str], files: Files) -> dict[str, int]:
    """Sizes in bytes of these files of a folder, by path below the root."""
    return {f"{folder}/{path}": int(files[path].get("size") or 0) for path in paths}


def _superfluous_checkpoints(work: str, files: Files, keep: int) -> dict[str, list[str]]:
    """By checkpoint folder below `work`, the files of those beyond the `keep` newest whole ones and the best.

    A folder without any whole checkpoint is left as it is. Every shard of one that counts as whole was read and its
    sha256 compared, which is only done where there is something to remove.
    """
    families: dict[str, dict[int, list[str]]] = {}
    for path in files:
        family, _, rest = path.partition("/")
        step, _, name = rest.partition("/")
        number = step.removeprefix(STEP)
        if name and step.startswith(STEP) and number.isdigit():
            families.setdefault(family, {}).setdefault(int(number), []).append(path)
    removed: dict[str, list[str]] = {}
    for family, steps in families.items():
        kept = _kept_steps(io.join(work, family), steps, keep)
        for old in sorted(set(steps) - kept) if kept else []:
            # The index first: half a checkpoint is none.
            removed[f"{family}/{STEP}{old:08d}"] = sorted(steps[old], key=lambda path: not path.endswith(INDEX))
    return removed


def _kept_steps(folder: str, steps: dict[int, list[str]], keep: int) -> set[int]:
    """The steps of the `keep` newest whole checkpoints and of the best one; none where no checkpoint is whole."""
    try:
        best = {int(json.loads(io.read_bytes(io.join(folder, BEST)))["step"])} & set(steps)
    except (FileNotFoundError, KeyError, TypeError, ValueError):
        best = set[int]()
    if len(steps) <= len(best | {max(steps)}):
        return set(steps)
    from vim_core.checkpoint.shard_files import DamagedCheckpoint, open_checkpoint

    kept: set[int] = set()
    for step in sorted(steps, reverse=True):
        if len(kept) < keep:
            with contextlib.suppress(DamagedCheckpoint):
                open_checkpoint(io.join(folder, f"{STEP}{step:08d}"))
                kept.add(step)
    return kept | best if kept else kept


def _set_aside(root: str, version: Version) -> bool:
    """Rename the manifest so that readers do not find it; False where it is leased, or no longer the same."""
    if version.removed:
        return True
    folder, attempt = version.artifact.folder, version.artifact.manifest.attempt
    uri = io.join(folder, version.file)
    with lease.hold_if_free(usage.folder(root, *version.key)) as held, store.guarded(root):
        data = io.read_optional(uri) if held else None
        if held is None or data is None or store.parse(data, uri).attempt != attempt:
            return False
        io.write_bytes(io.join(folder, f"{REMOVED}{attempt}.json"), data)
        held.check()
        io.remove_tree(uri)
    return True


def _restore(inventory: Inventory, kept: dict[VersionKey, str]) -> list[str]:
    """Make needed versions that are set aside exist again, unless another has taken their place; gives their names."""
    # Where a lease is held, a new version is being made.
    current = {version.key for version in inventory.versions if version.current} | set(inventory.owners)
    restored: list[str] = []
    for version in inventory.versions:
        if version.current or version.unique_key not in kept or version.key in current:
            continue
        set_aside = io.join(version.artifact.folder, version.file)
        with lease.hold_if_free(usage.folder(inventory.root, *version.key)) as held:
            with store.guarded(inventory.root):
                if held is None or not io.exists(set_aside):
                    continue  # Another collection has begun to remove its files.
            held.check()
            store.commit(inventory.root, version.artifact.manifest)
            with store.guarded(inventory.root):
                io.remove_tree(set_aside)
        current.add(version.key)
        restored.append(version.artifact.name)
    return restored


def _remove(root: str, removal: Removal, rules: Rules) -> bool:
    """Remove the files under the lease; False where it is held, or the files came into use since the survey."""
    below = [WORK] if removal.kind in (UNFINISHED, CHECKPOINT) else []
    folder = io.join(root, "/".join([*below, *removal.key]))
    with lease.hold_if_free(usage.folder(root, *removal.key)) as held:
        if held is None or _in_use(root, folder, removal, rules):
            return False
        held.check()
        with store.guarded(root):
            # In the plan's order: a manifest before the files it names, a checkpoint's index before its shards.
            for path in removal.files:
                io.remove_tree(io.join(root, path))
            if io.is_local(folder):  # buckets have no empty folders
                for local, _, _ in os.walk(io.local_path(folder), topdown=False):
                    with contextlib.suppress(OSError):
                        os.rmdir(local)
    return True


def _in_use(root: str, folder: str, removal: Removal, rules: Rules) -> bool:
    if removal.kind == UNFINISHED:
        with store.guarded(root):
            return any(io.mtime_of(info) > rules.limit for info in io.find_files(folder).values())
    artifact = store.load(root, *removal.key)
    return artifact is not None and any(
        f"{artifact.name}/{entry.path}" in removal.files for entry in artifact.manifest.files
    )
