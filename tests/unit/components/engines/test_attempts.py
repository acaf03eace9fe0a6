"""Attempts: finished shards are counted and published; lost nodes and connections are worth another attempt."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from components.engines.attempts import finished_counter, is_transient, publish
from tests.support.synthetic import context_of
from vim_core.errors import ConfigError, DataError, StorageError, VimError


def test_a_finished_shard_is_not_looked_at_again() -> None:
    looked: list[int] = []
    done = {1}

    def finished(shard: int) -> bool:
        looked.append(shard)
        return shard in done

    count = finished_counter([0, 1, 2], finished)
    assert count() == 1
    done.add(2)
    assert (count(), count()) == (2, 2)
    assert looked == [0, 1, 2, 0, 2, 0]


@pytest.mark.parametrize("linkable", [True, False])
def test_outputs_are_linked_or_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, linkable: bool) -> None:
    ctx = context_of(tmp_path, "tokenize")
    source = Path(ctx.work, "codes/a")
    source.parent.mkdir(parents=True)
    source.write_bytes(b"codes")
    if not linkable:

        def refuse(*_: object) -> None:
            raise OSError("no hard links here")

        monkeypatch.setattr(os, "link", refuse)
    for _ in range(2):
        publish(ctx, str(source), "codes/a")
    target = Path(ctx.path("codes/a"))
    assert target.read_bytes() == b"codes"
    assert target.samefile(source) is linkable
    assert [path.name for path in target.parent.iterdir()] == ["a"]


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
