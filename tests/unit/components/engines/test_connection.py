"""Lost nodes and connections are worth another attempt; mistakes are not."""

from __future__ import annotations

import pytest

from components.engines.connection import is_lost
from vim_core.errors import ConfigError, DataError, StorageError, VimError


class Died(Exception):
    """As Ray's, by name."""


class ActorDied(Died):
    """A kind of it."""


Died.__module__, Died.__qualname__ = "ray.exceptions", "RayActorError"


def caused(error: Exception, cause: BaseException) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    "error",
    [
        ConnectionResetError("the peer went away"),
        ActorDied(),
        caused(RuntimeError("pipeline failed"), ConnectionResetError()),
        caused(StorageError("gs://b: cannot be read"), ConnectionAbortedError()),
    ],
)
def test_lost(error: Exception) -> None:
    assert is_lost(error)


@pytest.mark.parametrize(
    "error",
    [
        ConfigError("prior.steps=0: must be positive"),
        DataError("no images"),
        ValueError("a bug"),
        ConnectionRefusedError("nobody listens"),
        StorageError("disk is full"),
        # Ray has tried run.restarts times when this is raised.
        caused(VimError("sample: an actor was lost more than run.restarts=3 times"), Died()),
    ],
)
def test_not_lost(error: Exception) -> None:
    assert not is_lost(error)


def test_errors_that_hang_below_each_other_end() -> None:
    one, two = RuntimeError("one"), RuntimeError("two")
    one.__cause__, two.__cause__ = two, one
    assert not is_lost(one)
