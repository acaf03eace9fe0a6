"""The output of `vimctl status`: jobs of a cluster, unfinished work and its owners, the newest artifacts."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterator

from components.artifacts import inventory
from components.artifacts.format import size
from components.artifacts.inventory import Inventory, short
from components.contract.api import ArtifactKey
from components.tracking.shipping import SPOOL
from pipelines.jobs import specs
from pipelines.jobs.api import JobState
from pipelines.jobs.profile import Cluster
from vim_core.config import PipelineConfig
from vim_core.errors import VimError
from vim_core.storage import io
from vim_core.text import clock
from vim_core.training import spool

MAX_JOBS, MAX_ARTIFACTS = 8, 5
TAIL_BYTES = 4096
CHECKPOINT = re.compile(r"(?:.*/)?step-(\d+)/.*")


def status_lines(root: str, cluster: Cluster, jobs: list[JobState]) -> Iterator[str]:
    """Three blocks: jobs, unfinished work, newest artifacts. Raises `StorageError` for a root that cannot be read."""
    now = time.time()
    survey = inventory.survey(root)
    yield f"jobs on {cluster.name} {cluster.address}".rstrip()
    for state in jobs[:MAX_JOBS]:
        age = clock((state.ended or now) - state.started) if state.started else "-"
        detail = state.message if state.finished else _progress(root, state, survey)
        yield f"  {state.job_id:<40} {state.status:<10} {age:>8}  {detail}".rstrip()
    if not jobs:
        yield "  none"
    yield f"unfinished below {root}"
    unfinished = sorted({*survey.work, *survey.owners})
    for key in unfinished:
        owner = survey.owners.get(key, "no owner; the same command continues it")
        yield f"  {_name(key):<24} {_last_step(root, key, survey):<14} {owner}"
    if not unfinished:
        yield "  nothing"
    yield "made last"
    current = [version.artifact for version in survey.versions if version.current]
    for artifact in sorted(current, key=inventory.created_at, reverse=True)[:MAX_ARTIFACTS]:
        age, took = clock(now - inventory.created_at(artifact)), clock(artifact.manifest.seconds)
        yield f"  {_name(artifact.manifest.key):<24} {age} ago, in {took}, {size(artifact.size)}"
    if not current:
        yield "  nothing"


def _progress(root: str, state: JobState, survey: Inventory) -> str:
    """The components of a job that a process owns, with their last steps."""
    try:
        spec = specs.read(specs.uri(root, state.job_id))
        config = specs.config_of(spec)
        names = specs.plan(spec, config)[0]
    except VimError:
        return "of another root or version"
    owned = [key for key in survey.owners if key[0] in names]
    return ", ".join(f"{key[0]} {_last_step(root, key, survey, config)}".strip() for key in sorted(owned))


def _last_step(root: str, key: ArtifactKey, survey: Inventory, config: PipelineConfig | None = None) -> str:
    """`step 40 of 100`, by spool and checkpoints; '' before the first."""
    files = survey.work.get(key, {})
    steps = [int(match[1]) for match in map(CHECKPOINT.fullmatch, files) if match]
    if SPOOL in files:
        length = int(files[SPOOL]["size"])
        with contextlib.suppress(FileNotFoundError):
            tail = io.read_range(io.join(root, inventory.WORK, *key, SPOOL), max(0, length - TAIL_BYTES), length)
            steps += [int(row["step"]) for row in spool.parse_rows(b"\n" + tail) if isinstance(row, dict)]
    total = getattr(getattr(config, key[0], None), "steps", None)
    return f"step {max(steps)}" + (f" of {total}" if total else "") if steps else ""


def _name(key: ArtifactKey) -> str:
    return f"{key[0]}/{short(key[1])}"
