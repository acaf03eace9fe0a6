"""The versions of artifacts that are kept, and why: the roots, and everything that they were made from."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator
from typing import Any

from components.artifacts.inventory import Inventory, Version, is_published, newest_mtime
from components.artifacts.resolve import short_name
from components.contract.api import ArtifactKey, InputRecord, Manifest

VersionKey = tuple[str, str, str]
"""Component, fingerprint and attempt."""
ByKey = dict[ArtifactKey, list[Version]]
REFERENCE = re.compile(r"([a-z_]+)/([0-9a-f]{20})(?![0-9a-f])")


def version_key(version: Version) -> VersionKey:
    """Component, fingerprint and attempt, which no two versions share."""
    return (*version.key, version.artifact.manifest.attempt)


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
        if version_key(version) in reasons:
            continue
        reasons[version_key(version)] = reason
        because = f"{short_name(version.key)} was made from it"
        for record in sources_of(version.artifact.manifest):
            queue += [(source, because) for source in _versions_of(record, by_key)]
    return reasons


def sources_of(manifest: Manifest) -> Iterator[InputRecord]:
    """The inputs, and artifacts that a setting or property names by their folder (a tokenizer to start from)."""
    yield from manifest.inputs.values()
    for text in _strings([manifest.config, manifest.properties]):
        for component, fingerprint in REFERENCE.findall(text):
            yield InputRecord(component, fingerprint, "")


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
