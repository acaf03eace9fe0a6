"""Repeated attempts: shards that an earlier one finished, and errors after which another one may succeed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from typing import TypeVar

from components.contract.api import Context, Progress
from vim_core.errors import StorageError, VimError
from vim_core.storage import io

S = TypeVar("S")

RAY_ERRORS = frozenset(
    f"ray.exceptions.{name}"
    for name in (
        "RayActorError", "NodeDiedError", "WorkerCrashedError", "ObjectLostError", "LocalRayletDiedError", "RpcError",
    )
)  # fmt: skip
"""Lost nodes and connections by name, so that classifying an error does not import Ray."""


def start_progress(shards: Sequence[S], finished: Callable[[S], bool], progress: Progress) -> list[S]:
    """The shards that no earlier attempt finished; starts the progress bar at the number of the others."""
    left = [shard for shard in shards if not finished(shard)]
    before = len(shards) - len(left)
    progress.start(len(shards), "shard")
    if before:
        progress.note(f"{before} of {len(shards)} shards were finished by an earlier attempt")
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


def is_transient(error: BaseException) -> bool:
    """True if the error, or a cause of it, is a lost node, worker or connection and not a mistake.

    VIM's own errors are final, except those of storage: the user has to act, or an engine has already retried
    `run.restarts` times. A refused connection is final too: nothing listens at a wrong address.
    """
    if isinstance(error, VimError) and not isinstance(error, StorageError):
        return False
    seen: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in seen:  # engines may set an error as its own cause (a cycle)
        if isinstance(cause, ConnectionResetError | ConnectionAbortedError):
            return True
        if any(f"{kind.__module__}.{kind.__qualname__}" in RAY_ERRORS for kind in type(cause).__mro__):
            return True
        seen.append(cause)
        cause = cause.__cause__
    return False
