"""Superfluous checkpoints of unfinished work: all but the newest whole ones and the best of each numeric class."""

from __future__ import annotations

import json

from components.artifacts.inventory import Files
from vim_core.storage import io

BEST = "best.json"
INDEX = "index.json"
STEP = "step-"


def superfluous_checkpoints(work: str, files: Files, keep: int) -> dict[str, list[str]]:
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
    kept: set[int] = set()
    for step in sorted(steps, reverse=True):
        if len(kept) < keep and _whole(io.join(folder, f"{STEP}{step:08d}")):
            kept.add(step)
    return kept | best if kept else kept


def _whole(folder: str) -> bool:
    from vim_core.checkpoint.shard_files import DamagedCheckpoint, open_checkpoint

    try:
        open_checkpoint(folder)
    except DamagedCheckpoint:
        return False
    return True
