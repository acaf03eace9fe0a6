"""Where an artifact comes from, up to the raw images, and everything that was made from it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from components.artifacts.gc.reachability import sources_of
from components.artifacts.inventory import ArtifactKey
from components.artifacts.resolve import short
from components.contract.api import Artifact, InputRecord


@dataclass
class Node:
    """One artifact in a tree; `role` is as which input it stands there, `note` what is special about it."""

    component: str
    fingerprint: str
    digest: str
    role: str = ""
    note: str = ""
    branches: list[Node] = field(default_factory=list)

    def record(self) -> dict[str, Any]:
        """As JSON."""
        own = {key: value for key, value in vars(self).items() if key != "branches"}
        return own | {"branches": [branch.record() for branch in self.branches]}

    def lines(self, indent: str = "") -> Iterator[str]:
        """As text, a line an artifact."""
        role = f"{self.role}: " if self.role else ""
        about = f"  digest {short(self.digest)}" if self.digest else ""
        name = f"{self.component}/{short(self.fingerprint)}" if self.fingerprint else self.component
        yield f"{indent}{role}{name}{about}{f'  ({self.note})' if self.note else ''}"
        for branch in self.branches:
            yield from branch.lines(indent + "  ")


def upstream(made: Artifact, known: Sequence[Artifact]) -> Node:
    """What it was made from, each with what that was made from; the last are the sources of images."""
    return _up(made, {_place(each): each for each in known}, "", set())


def downstream(made: Artifact, known: Sequence[Artifact]) -> Node:
    """What was made from it; an artifact that comes by several ways has its branches at the first."""
    users: dict[ArtifactKey, list[tuple[str, Artifact, InputRecord]]] = {}
    for each in known:
        roles = {id(record): role for role, record in each.manifest.inputs.items()}
        for record in sources_of(each.manifest):
            role = roles.get(id(record), "named in its settings")
            users.setdefault((record.component, record.fingerprint), []).append((role, each, record))
    return _down(made, users, "", "", set())


def _up(made: Artifact, known: Mapping[ArtifactKey, Artifact], role: str, seen: set[ArtifactKey]) -> Node:
    manifest = made.manifest
    node = Node(manifest.component, manifest.fingerprint, made.digest, role)
    if _place(made) in seen:
        node.note = "see above"
        return node
    seen.add(_place(made))
    if manifest.component == "ingest":
        node.branches.append(Node(f"images {manifest.config.get('source', '')}".strip(), "", ""))
    roles = {id(record): name for name, record in manifest.inputs.items()}
    for record in sources_of(manifest):
        name = roles.get(id(record), "named in its settings")
        source = known.get((record.component, record.fingerprint))
        if source is None:
            node.branches.append(Node(record.component, record.fingerprint, record.digest, name, "not there any more"))
            continue
        branch = _up(source, known, name, seen)
        if record.digest not in ("", source.digest):
            branch.note = f"it was digest {short(record.digest)} then; made again since"
        node.branches.append(branch)
    return node


def _down(
    made: Artifact, users: Mapping[ArtifactKey, list[tuple[str, Artifact, InputRecord]]], role: str, note: str,
    seen: set[ArtifactKey],
) -> Node:  # fmt: skip
    node = Node(made.manifest.component, made.manifest.fingerprint, made.digest, role, note)
    if _place(made) in seen:
        node.note = "see above"
        return node
    seen.add(_place(made))
    for name, user, record in users.get(_place(made), []):
        same = record.digest in ("", made.digest)
        words = "" if same else f"from digest {short(record.digest)}, made before this one"
        node.branches.append(_down(user, users, f"as {name}", words, seen))
    return node


def _place(made: Artifact) -> ArtifactKey:
    return made.manifest.component, made.manifest.fingerprint
