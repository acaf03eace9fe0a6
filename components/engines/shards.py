"""Shards that an earlier attempt may have finished: which are left, counting them, publishing their files."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from typing import TypeVar

from components.contract.api import Context, Progress
from vim_core.storage import io

S = TypeVar("S")


def start_progress(
    shards: Sequence[S], finished: Callable[[S], bool], progress: Progress, unit: str = "shard"
) -> list[S]:
    """The shards that no earlier attempt finished; starts the progress bar at the number of the others."""
    left = [shard for shard in shards if not finished(shard)]
    before = len(shards) - len(left)
    progress.start(len(shards), unit)
    if before:
        progress.note(f"{before} of {len(shards)} {unit}s were finished by an earlier attempt")
        progress.advance(before)
    return left


def finished_counter(shards: Sequence[S], finished: Callable[[S], bool]) -> Callable[[], int]:
    """A function that counts the finished shards; it does not look again at one that it has found finished."""
    left = list(shards)

    def count() -> int:
        left[:] = [shard for shard in left if not finished(shard)]
        return len(shards) - len(left)

    return count


def publish(ctx: Context, source: str, name: str) -> None:
    """Put a finished file of the work folder among the outputs; local files are hard-linked, which costs no space."""
    target = ctx.path(name)
    if not io.is_local(source) or not io.is_local(target):
        io.write_bytes(target, io.read_bytes(source))
        return
    with io.staged(target) as staged:
        try:
            os.link(io.local_path(source), staged)
        except OSError:  # another disk, or a file system without hard links
            shutil.copyfile(io.local_path(source), staged)
