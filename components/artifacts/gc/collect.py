"""Remove what nobody needs from a root that others use meanwhile.

1. One look at the root makes the plan. 2. The manifests of useless artifacts are set aside, what was made of something
before that: for readers these artifacts exist no more, whole or not at all. 3. A second look: what a pin, a report or
a run (they announce first and look afterwards, see `marks`) has come to need since is put back. 4. Only then files go,
the set-aside manifest before the files it names. Every act on an artifact or its work is done under its lease, taken
only where nobody living has it. After a kill at any moment readers find whole artifacts, and the next time goes on.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass

from components.artifacts import lease, store, usage
from components.artifacts.gc.plan import CHECKPOINT, KINDS, UNFINISHED, Removal, Rules, plan_removals
from components.artifacts.gc.reachability import reachable, version_key
from components.artifacts.inventory import REMOVED, WORK, ArtifactKey, Inventory, Version, survey
from vim_core.storage import io


@dataclass(frozen=True)
class Collection:
    """What was or would be removed, names of artifacts put back, and what was left because somebody works on it."""

    removals: list[Removal]
    restored: list[str]
    busy: list[str]

    def totals(self) -> dict[str, int]:
        """Bytes by kind."""
        return {kind: sum(each.bytes for each in self.removals if each.kind == kind) for kind in KINDS}


def collect(root: str, rules: Rules, delete: bool = False, between: Callable[[], None] = lambda: None) -> Collection:
    """The plan, or with `delete` what was removed. `between` is called before the second look.

    Raises:
        DataError: something damaged lies in the root, so that what it needs is not known; nothing is removed then.
        StorageError: the root cannot be read or written.
    """
    first = plan_removals(survey(root), rules)
    if not delete:
        return Collection(first, [], [])
    versions = [each.version for each in first if each.version is not None]
    busy = [_named(version.place) for version in versions if not _set_aside(root, version)]
    between()
    found = survey(root)
    restored = _put_back(found, reachable(found, rules.limit))
    done: list[Removal] = []
    for each in plan_removals(found, rules):
        if each.version is not None and not each.version.condemned:
            # It became useless only now; its turn comes the next time.
            continue
        if _remove(root, each, rules):
            done.append(each)
        else:
            busy.append(_named(each.place))
    return Collection(done, restored, sorted(set(busy)))


def _set_aside(root: str, version: Version) -> bool:
    """Take the manifest out of readers' sight; False where somebody works on it, or it is no longer the same."""
    if version.condemned:
        return True
    folder, attempt = version.artifact.folder, version.artifact.manifest.attempt
    uri = io.join(folder, version.file)
    with lease.hold_if_free(usage.folder(root, *version.place)) as held, store.guarded(root):
        data = _read(uri) if held else b""
        if held is None or not data or store.parse(data, uri).attempt != attempt:
            return False
        io.write_bytes(io.join(folder, f"{REMOVED}{attempt}.json"), data)
        held.check()
        io.remove_tree(uri)
    return True


def _read(uri: str) -> bytes:
    try:
        return io.read_bytes(uri)
    except FileNotFoundError:
        return b""


def _put_back(found: Inventory, kept: dict[tuple[str, str, str], str]) -> list[str]:
    """Make needed versions that lie aside exist again, unless another has taken their place."""
    # Where somebody works, a new one is being made.
    current = {version.place for version in found.versions if version.current} | set(found.owners)
    restored: list[str] = []
    for version in found.versions:
        if version.current or version_key(version) not in kept or version.place in current:
            continue
        if _restored(found.root, version):
            current.add(version.place)
            restored.append(_named(version.place))
    return restored


def _restored(root: str, version: Version) -> bool:
    """Commit a manifest again under the lease, unless another remover has begun with its files."""
    aside = io.join(version.artifact.folder, version.file)
    with lease.hold_if_free(usage.folder(root, *version.place)) as held:
        with store.guarded(root):
            if held is None or not io.exists(aside):
                return False
        held.check()
        store.commit(root, version.artifact.manifest)
        with store.guarded(root):
            io.remove_tree(aside)
    return True


def _remove(root: str, removal: Removal, rules: Rules) -> bool:
    """Remove its files under the lease; False where somebody works there or has worked there since the look."""
    with lease.hold_if_free(usage.folder(root, *removal.place)) as held:
        if held is None or _came_to_use(root, removal, rules):
            return False
        held.check()
        with store.guarded(root):
            # In the plan's order: a manifest before the files it names, a checkpoint's index before its shards.
            for path in removal.files:
                io.remove_tree(io.join(root, path))
            _remove_empty(io.join(root, _folder(removal)))
    return True


def _came_to_use(root: str, removal: Removal, rules: Rules) -> bool:
    if removal.kind == UNFINISHED:
        with store.guarded(root):
            there = io.find_files(io.join(root, _folder(removal)))
        return any(io.mtime_of(info) > rules.limit for info in there.values())
    now = store.load(root, *removal.place)
    return now is not None and any(
        f"{_named(removal.place)}/{each.path}" in removal.files for each in now.manifest.files
    )


def _folder(removal: Removal) -> str:
    """The folder of the artifact, or of its work."""
    below = [WORK] if removal.kind in (UNFINISHED, CHECKPOINT) else []
    return "/".join([*below, *removal.place])


def _remove_empty(uri: str) -> None:
    """Remove local folders that have become empty; buckets have none."""
    if io.is_local(uri):
        for folder, _, _ in os.walk(io.local_path(uri), topdown=False):
            with contextlib.suppress(OSError):
                os.rmdir(folder)


def _named(place: ArtifactKey) -> str:
    return "/".join(place)
