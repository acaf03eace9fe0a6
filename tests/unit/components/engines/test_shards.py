"""Shards of earlier attempts: counting the finished ones, putting their files among the outputs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from components.engines.shards import finished_counter, publish
from tests.support.synthetic import context_of


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
