"""Which versions of artifacts are kept, and why: the roots and everything that they were made from."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from components.artifacts.inventory import ArtifactKey, Inventory, Version, is_published, newest_mtime
from components.contract.api import InputRecord, Manifest

Key = tuple[str, str, str]
"""Component, fingerprint and attempt."""
NAMED = re.compile(r"([a-z_]+)/([0-9a-f]{20})(?![0-9a-f])")


def version_key(version: Version) -> Key:
    """What tells versions apart."""
    return (*version.place, version.artifact.manifest.attempt)


def reachable(found: Inventory, idle_since: float) -> dict[Key, str]:
    """Every version to keep with the first reason found; one used or made after `idle_since` (Unix time) is too young.

    Roots are pins, the artifacts of published reports and of sweeps, the report itself, what a living owner works on,
    what it and unfinished work have announced, and what is young; everything while a living owner has not said what it
    uses. The upstream closure of every root is kept as well.
    """
    known: dict[ArtifactKey, list[Version]] = {}
    for version in found.versions:
        known.setdefault(version.place, []).append(version)
    reasons: dict[Key, str] = {}
    waiting = list(_roots(found, known, idle_since))
    while waiting:
        version, reason = waiting.pop(0)
        if version_key(version) in reasons:
            continue
        reasons[version_key(version)] = reason
        below = f"{version.place[0]}/{version.place[1][:8]} was made from it"
        for record in sources_of(version.artifact.manifest):
            waiting += [(source, below) for source in _meant(record, known)]
    return reasons


def sources_of(manifest: Manifest) -> Iterator[InputRecord]:
    """The inputs, and artifacts that a setting or property names by their folder (a tokenizer to start from)."""
    yield from manifest.inputs.values()
    for text in _texts([manifest.config, manifest.properties]):
        for component, fingerprint in NAMED.findall(text):
            yield InputRecord(component, fingerprint, "")


def _roots(
    found: Inventory, known: dict[ArtifactKey, list[Version]], idle_since: float
) -> Iterator[tuple[Version, str]]:
    for record, reason in _named(found, idle_since):
        yield from ((version, reason) for version in _meant(record, known))
    for place, owner in found.owners.items():
        yield from ((version, f"{owner} works on it") for version in known.get(place, []))
    silent = [place for place in found.owners if found.users[place] is None]
    for place in silent:
        reason = f"{found.owners[place]} does not say what it uses"
        yield from ((version, reason) for version in found.versions)
    for version in found.versions:
        for preset in (name for name, used in found.reports.items() if is_published(version.artifact, used)):
            yield version, f"report of {preset}"
        if version.since > idle_since:
            yield version, "made or used too recently"


def _named(found: Inventory, idle_since: float) -> Iterator[tuple[InputRecord, str]]:
    for place, pin in found.pins.items():
        yield InputRecord(*place, pin.digest), f"pinned {pin}"
    for preset, used in found.reports.items():
        yield from ((record, f"report of {preset}") for record in used)
    for name, used in found.sweeps.items():
        yield from ((record, f"sweep {name}") for record in used)
    for place, announced in found.users.items():
        # Nobody will go on with old work.
        if place in found.owners or newest_mtime(found.work[place]) > idle_since:
            yield from ((record, f"in use by {place[0]}/{place[1][:8]}") for record in announced or [])


def _meant(record: InputRecord, known: dict[ArtifactKey, list[Version]]) -> list[Version]:
    """The versions of this digest, and what readers find there: a pin or a report may mean either."""
    there = known.get((record.component, record.fingerprint), [])
    exact = [version for version in there if version.artifact.digest == record.digest]
    return [*exact, *(version for version in there if version.current and version not in exact)] or there


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for each in value.values():
            yield from _texts(each)
    elif isinstance(value, list):
        for each in value:
            yield from _texts(each)
