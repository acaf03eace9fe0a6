"""Transient errors: a server, node or connection was lost, and a retry may succeed."""

from __future__ import annotations

from vim_core.errors import StorageError, VimError

RAY_ERRORS = frozenset(
    f"ray.exceptions.{name}"
    for name in (
        "RayActorError", "NodeDiedError", "WorkerCrashedError", "ObjectLostError", "LocalRayletDiedError", "RpcError",
    )
)  # fmt: skip
"""By name, so that classifying an error does not import Ray."""


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
