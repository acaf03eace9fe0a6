"""Graph of artifacts: the sources of each up to the raw images, what was made from it, and the versions to keep."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from components.artifacts.inventory import Inventory, Version, VersionKey, is_published, newest_mtime, short, short_name
from components.contract.api import Artifact, ArtifactKey, InputRecord, Manifest

ByKey = dict[ArtifactKey, list[Version]]
REFERENCE = re.compile(r"([a-z_]+)/([0-9a-f]{20})(?![0-9a-f])")


@dataclass
class Node:
    """One artifact in a tree; `role` is the input's name that links it to its parent node, `note` a remark."""

    component: str
    fingerprint: str
    digest: str
    role: str = ""
    note: str = ""
    branches: list[Node] = field(default_factory=list)

    def lines(self, indent: str = "") -> Iterator[str]:
        """The tree as text, one line for each artifact."""
        role = f"{self.role}: " if self.role else ""
        digest = f"  digest {short(self.digest)}" if self.digest else ""
        name = short_name((self.component, self.fingerprint)) if self.fingerprint else self.component
        yield f"{indent}{role}{name}{digest}{f'  ({self.note})' if self.note else ''}"
        for branch in self.branches:
            yield from branch.lines(indent + "  ")


def sources_of(manifest: Manifest) -> Iterator[tuple[str, InputRecord]]:
    """The inputs with their roles, and artifacts that a setting or property names by folder (a first tokenizer)."""
    yield from manifest.inputs.items()
    for text in _strings([manifest.config, manifest.properties]):
        for component, fingerprint in REFERENCE.findall(text):
            yield "named in its settings", InputRecord(component, fingerprint, "")


def upstream(artifact: Artifact, artifacts: Sequence[Artifact]) -> Node:
    """Return the tree of its sources among `artifacts`; the leaves are the sources of images."""
    by_key = {each.manifest.key: each for each in artifacts}
    seen: set[ArtifactKey] = set()

    def tree(artifact: Artifact, role: str) -> Node:
        manifest = artifact.manifest
        node = Node(*manifest.key, artifact.digest, role)
        if manifest.key in seen:
            node.note = "see above"
            return node
        seen.add(manifest.key)
        if manifest.component == "ingest":
            node.branches.append(Node(f"images {manifest.config.get('source', '')}".strip(), "", ""))
        for name, record in sources_of(manifest):
            source = by_key.get(record.key)
            if source is None:
                node.branches.append(Node(*record.key, record.digest, name, "not there any more"))
                continue
            branch = tree(source, name)
            if record.digest not in ("", source.digest):
                branch.note = f"it was digest {short(record.digest)} when used; made again since"
            node.branches.append(branch)
        return node

    return tree(artifact, "")


def downstream(artifact: Artifact, artifacts: Sequence[Artifact]) -> Node:
    """Return the tree of artifacts made from it, among `artifacts`; a repeated one has its branches only once."""
    users: dict[ArtifactKey, list[tuple[str, Artifact, InputRecord]]] = {}
    for user in artifacts:
        for role, record in sources_of(user.manifest):
            users.setdefault(record.key, []).append((role, user, record))
    seen: set[ArtifactKey] = set()

    def tree(artifact: Artifact, role: str, note: str) -> Node:
        node = Node(*artifact.manifest.key, artifact.digest, role, note)
        if artifact.manifest.key in seen:
            node.note = "see above"
            return node
        seen.add(artifact.manifest.key)
        for name, user, record in users.get(artifact.manifest.key, []):
            same = record.digest in ("", artifact.digest)
            note = "" if same else f"from digest {short(record.digest)}, made before this one"
            node.branches.append(tree(user, f"as {name}", note))
        return node

    return tree(artifact, "", "")


def reachable(inventory: Inventory, idle_since: float) -> dict[VersionKey, str]:
    """Every version to keep with the first reason found; one used or made after `idle_since` (Unix time) is too young.

    Roots are pins, the artifacts of published reports and of sweeps, the report itself, the work of living owners,
    the inputs that these and unfinished work have recorded, and what is young; and everything while a living owner has
    recorded no inputs. Whatever a root was made from is kept as well.
    """
    by_key: ByKey = {}
    for version in inventory.versions:
        by_key.setdefault(version.key, []).append(version)
    reasons: dict[VersionKey, str] = {}
    queue = deque(_roots(inventory, by_key, idle_since))
    while queue:
        version, reason = queue.popleft()
        if version.unique_key in reasons:
            continue
        reasons[version.unique_key] = reason
        because = f"{short_name(version.key)} was made from it"
        for _, record in sources_of(version.artifact.manifest):
            queue += [(source, because) for source in _versions_of(record, by_key)]
    return reasons


def _roots(inventory: Inventory, by_key: ByKey, idle_since: float) -> Iterator[tuple[Version, str]]:
    for record, reason in _root_records(inventory, idle_since):
        yield from ((version, reason) for version in _versions_of(record, by_key))
    for key, owner in inventory.owners.items():
        yield from ((version, f"{owner} works on it") for version in by_key.get(key, []))
        if inventory.recorded[key] is None:
            yield from ((version, f"{owner} has not recorded its inputs") for version in inventory.versions)
    for version in inventory.versions:
        for preset, records in inventory.reports.items():
            if is_published(version.artifact, records):
                yield version, f"report of {preset}"
        if version.since > idle_since:
            yield version, "made or used too recently"


def _root_records(inventory: Inventory, idle_since: float) -> Iterator[tuple[InputRecord, str]]:
    for key, pin in inventory.pins.items():
        yield InputRecord(*key, pin.digest), f"pinned {pin}"
    for preset, records in inventory.reports.items():
        yield from ((record, f"report of {preset}") for record in records)
    for name, records in inventory.sweeps.items():
        yield from ((record, f"sweep {name}") for record in records)
    for key, recorded in inventory.recorded.items():
        # Old work will not be continued.
        if key in inventory.owners or newest_mtime(inventory.work[key]) > idle_since:
            yield from ((record, f"in use by {short_name(key)}") for record in recorded or [])


def _versions_of(record: InputRecord, by_key: ByKey) -> list[Version]:
    """The versions of this digest and the current one: a pin or a report may mean either. All where none fits."""
    versions = by_key.get(record.key, [])
    exact = [version for version in versions if version.artifact.digest == record.digest]
    return [*exact, *(version for version in versions if version.current and version not in exact)] or versions


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _strings(each)
