"""Whether an error says that a server or a connection went away, so that the same work may succeed a moment later."""

from __future__ import annotations

from collections.abc import Iterator

from vim_core.errors import StorageError, VimError

CLASSES = frozenset(
    f"ray.exceptions.{name}"
    for name in (
        "RayActorError", "NodeDiedError", "WorkerCrashedError", "ObjectLostError", "LocalRayletDiedError", "RpcError",
    )
)  # fmt: skip
"""By name, because looking at an error is no reason to import Ray."""


def is_lost(error: BaseException) -> bool:
    """Whether the cause was a lost node, worker or connection and not a mistake.

    Our own errors are final, except those of storage: they are the user's to mend, or an engine has tried
    `run.restarts` times by then. A refused connection is no loss: nobody listens at a wrong address.
    """
    if isinstance(error, VimError) and not isinstance(error, StorageError):
        return False
    return any(map(_says_lost, _chain(error)))


def _says_lost(error: BaseException) -> bool:
    if isinstance(error, ConnectionResetError | ConnectionAbortedError):
        return True
    return any(f"{kind.__module__}.{kind.__qualname__}" in CLASSES for kind in type(error).__mro__)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error and what it came from; engines may hang an error below itself."""
    seen: list[BaseException] = []
    while error is not None and error not in seen:
        seen.append(error)
        yield error
        error = error.__cause__
