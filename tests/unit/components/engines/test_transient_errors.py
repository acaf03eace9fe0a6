"""Lost nodes and connections are worth another attempt; mistakes are not."""

from __future__ import annotations

import pytest

from components.engines.transient_errors import is_transient
from vim_core.errors import ConfigError, DataError, StorageError, VimError


class ActorError(Exception):
    """Stands for Ray's, which is recognised by name."""


class ActorDiedError(ActorError):
    """A subclass of it."""


ActorError.__module__, ActorError.__qualname__ = "ray.exceptions", "RayActorError"


def caused(error: Exception, cause: BaseException) -> Exception:
    error.__cause__ = cause
    return error


LOOP = RuntimeError("one")
LOOP.__cause__ = caused(RuntimeError("two"), LOOP)


@pytest.mark.parametrize(
    ("error", "transient"),
    [
        (ConnectionResetError("closed by the peer"), True),
        (ActorDiedError(), True),
        (caused(RuntimeError("pipeline failed"), ConnectionResetError()), True),
        (caused(StorageError("gs://b: cannot be read"), ConnectionAbortedError()), True),
        (ConfigError("prior.steps=0: must be positive"), False),
        (caused(DataError("no images"), ConnectionResetError()), False),
        (ValueError("a bug"), False),
        (ConnectionRefusedError("nothing listens"), False),
        (StorageError("disk is full"), False),
        # Ray has tried run.restarts times when this is raised.
        (caused(VimError("sample: an actor was lost more than run.restarts=3 times"), ActorError()), False),
        (LOOP, False),
    ],
)
def test_transient(error: Exception, transient: bool) -> None:
    assert is_transient(error) is transient
