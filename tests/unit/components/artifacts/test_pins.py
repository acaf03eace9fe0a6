"""A pin says who, when and why; of two at once one wins."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from components.artifacts import pins
from components.contract.api import Artifact
from tests.support.archived import key, make
from vim_core.errors import DataError
from vim_core.storage import io


def test_a_pin_says_who_when_and_why(anywhere: str) -> None:
    made = make(anywhere, "prior", 1)
    assert pins.read(anywhere, "prior", key(1)) is None
    pin = pins.pin(anywhere, made.manifest, "for the paper", by="ann")
    assert pins.read(anywhere, "prior", key(1)) == pin
    assert (pin.by, pin.reason, pin.digest) == ("ann", "for the paper", made.digest)
    with pytest.raises(DataError, match=f"prior/{key(1)}: already pinned by ann on 20.*: for the paper"):
        pins.pin(anywhere, made.manifest, "again")
    assert pins.unpin(anywhere, made.manifest) == pin
    assert pins.read(anywhere, "prior", key(1)) is None
    with pytest.raises(DataError, match="is not pinned"):
        pins.unpin(anywhere, made.manifest)


def test_of_many_at_once_one_wins(root: str) -> None:
    made: Artifact = make(root, "prior", 1)

    def attempt(number: int) -> bool:
        try:
            return bool(pins.pin(root, made.manifest, "", by=f"user {number}"))
        except DataError:
            return False

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(attempt, range(8))) == 1


def test_a_damaged_pin_is_named(root: str) -> None:
    made = make(root, "prior", 1)
    io.write_bytes(io.join(root, ".pins", "prior", f"{key(1)}.json"), b"{}")
    with pytest.raises(DataError, match=f"{key(1)}.json: not a pin"):
        pins.read(root, "prior", key(1))
    with pytest.raises(DataError, match="not a pin"):
        pins.unpin(root, made.manifest)
