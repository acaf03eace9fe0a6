"""The sources of an artifact, up to the raw images, and everything that was made from it, as trees."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from components.artifacts.gc.reachability import sources_of
from components.artifacts.resolve import short, short_name
from components.contract.api import Artifact, ArtifactKey, InputRecord


@dataclass
class Node:
    """One artifact in a tree; `role` is the input's name that links it to its parent node, `note` a remark."""

    component: str
    fingerprint: str
    digest: str
    role: str = ""
    note: str = ""
    branches: list[Node] = field(default_factory=list)

    def record(self) -> dict[str, Any]:
        """The tree as JSON."""
        own = {key: value for key, value in vars(self).items() if key != "branches"}
        return own | {"branches": [branch.record() for branch in self.branches]}

    def lines(self, indent: str = "") -> Iterator[str]:
        """The tree as text, one line for each artifact."""
        role = f"{self.role}: " if self.role else ""
        digest = f"  digest {short(self.digest)}" if self.digest else ""
        name = short_name((self.component, self.fingerprint)) if self.fingerprint else self.component
        yield f"{indent}{role}{name}{digest}{f'  ({self.note})' if self.note else ''}"
        for branch in self.branches:
            yield from branch.lines(indent + "  ")


def upstream(artifact: Artifact, artifacts: Sequence[Artifact]) -> Node:
    """Return the tree of its sources among `artifacts`; the leaves are the sources of images."""
    return _upstream(artifact, {each.manifest.key: each for each in artifacts}, "", set())


def downstream(artifact: Artifact, artifacts: Sequence[Artifact]) -> Node:
    """Return the tree of artifacts made from it, among `artifacts`; a repeated one has its branches only once."""
    users: dict[ArtifactKey, list[tuple[str, Artifact, InputRecord]]] = {}
    for user in artifacts:
        for role, record in _sources(user):
            users.setdefault(record.key, []).append((role, user, record))
    return _downstream(artifact, users, "", "", set())


def _sources(artifact: Artifact) -> Iterator[tuple[str, InputRecord]]:
    """Every source with its role."""
    roles = {id(record): role for role, record in artifact.manifest.inputs.items()}
    for record in sources_of(artifact.manifest):
        yield roles.get(id(record), "named in its settings"), record


def _upstream(artifact: Artifact, by_key: Mapping[ArtifactKey, Artifact], role: str, seen: set[ArtifactKey]) -> Node:
    node = Node(*artifact.manifest.key, artifact.digest, role)
    if artifact.manifest.key in seen:
        node.note = "see above"
        return node
    seen.add(artifact.manifest.key)
    if artifact.manifest.component == "ingest":
        node.branches.append(Node(f"images {artifact.manifest.config.get('source', '')}".strip(), "", ""))
    for name, record in _sources(artifact):
        source = by_key.get(record.key)
        if source is None:
            node.branches.append(Node(*record.key, record.digest, name, "not there any more"))
            continue
        branch = _upstream(source, by_key, name, seen)
        if record.digest not in ("", source.digest):
            branch.note = f"it was digest {short(record.digest)} when used; made again since"
        node.branches.append(branch)
    return node


def _downstream(
    artifact: Artifact, users: Mapping[ArtifactKey, list[tuple[str, Artifact, InputRecord]]], role: str, note: str,
    seen: set[ArtifactKey],
) -> Node:  # fmt: skip
    node = Node(*artifact.manifest.key, artifact.digest, role, note)
    if artifact.manifest.key in seen:
        node.note = "see above"
        return node
    seen.add(artifact.manifest.key)
    for name, user, record in users.get(artifact.manifest.key, []):
        same = record.digest in ("", artifact.digest)
        note = "" if same else f"from digest {short(record.digest)}, made before this one"
        node.branches.append(_downstream(user, users, f"as {name}", note, seen))
    return node
