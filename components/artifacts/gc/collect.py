"""Remove unneeded files from a root that other processes use at the same time.

1. The first survey makes the plan. 2. The manifests of unneeded artifacts are set aside, derived artifacts
before their sources: readers see each artifact whole or not at all. 3. A second survey: what a pin, a report or a run
needs by now is put back (runs record their inputs first and verify them afterwards, see `usage`). 4. Only
then files are removed, a set-aside manifest before the files it names.

Every act on an artifact or its work happens under its lease, taken only where no living owner has it. After a kill at
any moment readers find whole artifacts, and the next collection goes on.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass

from components.artifacts import lease, store, usage
from components.artifacts.gc.plan import CHECKPOINT, KINDS, UNFINISHED, Removal, Rules, plan_removals
from components.artifacts.gc.reachability import VersionKey, reachable, version_key
from components.artifacts.inventory import REMOVED, WORK, Inventory, Version, survey
from vim_core.storage import io


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


def _set_aside(root: str, version: Version) -> bool:
    """Rename the manifest so that readers do not find it; False where it is leased, or no longer the same."""
    if version.removed:
        return True
    folder, attempt = version.artifact.folder, version.artifact.manifest.attempt
    uri = io.join(folder, version.file)
    with lease.hold_if_free(usage.folder(root, *version.key)) as held, store.guarded(root):
        try:
            data = io.read_bytes(uri) if held else b""
        except FileNotFoundError:
            return False
        if held is None or store.parse(data, uri).attempt != attempt:
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
        if version.current or version_key(version) not in kept or version.key in current:
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
