"""How things stand: jobs of a cluster, unfinished work and its owners, what was made last. For `vimctl status`."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator

from components.artifacts import inventory
from components.artifacts.format import size
from components.artifacts.inventory import ArtifactKey, Files, Inventory
from components.artifacts.resolve import short
from components.tracking.spool_mirror import SPOOL
from pipelines.jobs import specs
from pipelines.jobs.api import JobState
from pipelines.jobs.profile import Cluster
from vim_core.config import PipelineConfig
from vim_core.errors import VimError
from vim_core.storage import io
from vim_core.text import clock
from vim_core.training import spool

JOBS, MADE = 8, 5
TAIL_BYTES = 4096
CHECKPOINT = re.compile(r"(?:.*/)?step-(\d+)/.*")


def lines(root: str, cluster: Cluster, jobs: list[JobState], now: float | None = None) -> Iterator[str]:
    """Everything in three blocks. Raises `StorageError` for a root that cannot be read."""
    now = time.time() if now is None else now
    found = inventory.survey(root)
    yield f"jobs on {cluster.name} {cluster.address}".rstrip()
    yield from [_job(root, state, found, now) for state in jobs[:JOBS]] or ["  none"]
    yield f"unfinished below {root}"
    yield from [_unfinished(root, place, found) for place in sorted({*found.work, *found.owners})] or ["  nothing"]
    yield "made last"
    newest = sorted((each for each in found.versions if each.current), key=_made, reverse=True)[:MADE]
    for version in newest:
        age, took = clock(now - _made(version)), clock(version.artifact.manifest.seconds)
        yield f"  {_name(version.place):<24} {age} ago, in {took}, {size(version.bytes)}"
    if not newest:
        yield "  nothing"


def _job(root: str, state: JobState, found: Inventory, now: float) -> str:
    age = clock((state.ended or now) - state.started) if state.started else "-"
    about = _at(root, state, found) if not state.over else state.message
    return f"  {state.identity:<40} {state.status:<10} {age:>8}  {about}".rstrip()


def _at(root: str, state: JobState, found: Inventory) -> str:
    """What a job works on, and how far it is: of the components that it is to make, those that somebody owns."""
    try:
        spec = specs.read(specs.uri(root, state.identity))
        config = specs.config_of(spec)
        names = specs.planned(spec, config)[0]
    except VimError:
        return "of another root or version"
    owned = [place for place in found.owners if place[0] in names]
    return ", ".join(f"{place[0]} {_steps(root, place, found, config)}".strip() for place in sorted(owned))


def _unfinished(root: str, place: ArtifactKey, found: Inventory) -> str:
    owner = found.owners.get(place, "nobody; the same command continues it")
    return f"  {_name(place):<24} {_steps(root, place, found):<14} {owner}"


def _steps(root: str, place: ArtifactKey, found: Inventory, config: PipelineConfig | None = None) -> str:
    files = found.work.get(place, {})
    step = max(_spooled(root, place, files), _checkpointed(files))
    total = getattr(getattr(config, place[0], None), "steps", None)
    return "" if step < 0 else f"step {step}" + (f" of {total}" if total else "")


def _checkpointed(files: Files) -> int:
    return max((int(match[1]) for match in map(CHECKPOINT.fullmatch, files) if match), default=-1)


def _spooled(root: str, place: ArtifactKey, files: Files) -> int:
    """The last step in the spool's last lines, -1 where there is none."""
    if SPOOL not in files:
        return -1
    length = int(files[SPOOL]["size"])
    try:
        tail = io.read_range(io.join(root, inventory.WORK, *place, SPOOL), max(0, length - TAIL_BYTES), length)
    except FileNotFoundError:
        return -1
    return max((int(row["step"]) for row in spool.parse_rows(b"\n" + tail) if isinstance(row, dict)), default=-1)


def _name(place: ArtifactKey) -> str:
    return f"{place[0]}/{short(place[1])}"


def _made(version: inventory.Version) -> float:
    return inventory.created_at(version.artifact)
