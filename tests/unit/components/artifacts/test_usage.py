"""Pins, of which one wins of two at once, and verifying that inputs still exist."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from components.artifacts import store, usage
from components.contract.api import Artifact
from tests.support.archived import key, make
from vim_core.errors import DataError
from vim_core.storage import io


def test_a_pin_says_who_when_and_why(anywhere: str) -> None:
    made = make(anywhere, "prior", 1)
    assert usage.read_pin(anywhere, "prior", key(1)) is None
    pin = usage.pin(anywhere, made.manifest, "for the paper", by="ann")
    assert usage.read_pin(anywhere, "prior", key(1)) == pin
    assert (pin.by, pin.reason, pin.digest) == ("ann", "for the paper", made.digest)
    with pytest.raises(DataError, match=f"prior/{key(1)}: already pinned by ann on 20.*: for the paper"):
        usage.pin(anywhere, made.manifest, "again")
    assert usage.unpin(anywhere, made.manifest) == pin
    assert usage.read_pin(anywhere, "prior", key(1)) is None
    with pytest.raises(DataError, match="is not pinned"):
        usage.unpin(anywhere, made.manifest)


def test_of_many_at_once_one_wins(root: str) -> None:
    made: Artifact = make(root, "prior", 1)

    def attempt(number: int) -> bool:
        try:
            return bool(usage.pin(root, made.manifest, "", by=f"user {number}"))
        except DataError:
            return False

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(attempt, range(8))) == 1


def test_a_damaged_pin_is_named(root: str) -> None:
    made = make(root, "prior", 1)
    io.write_bytes(io.join(root, ".pins", "prior", f"{key(1)}.json"), b"{}")
    with pytest.raises(DataError, match=f"{key(1)}.json: not a pin"):
        usage.read_pin(root, "prior", key(1))
    with pytest.raises(DataError, match="not a pin"):
        usage.unpin(root, made.manifest)


def test_a_removed_input_of_this_root_is_named(root: str) -> None:
    elsewhere, codes = make(f"{root}/other", "ingest", 1), make(root, "tokenize", 2)
    inputs = {"images": elsewhere, "codes": codes}
    usage.verify_inputs(root, "prior", inputs)
    io.remove_tree(io.join(elsewhere.folder, store.MANIFEST))
    usage.verify_inputs(root, "prior", inputs)
    io.remove_tree(io.join(codes.folder, store.MANIFEST))
    with pytest.raises(DataError, match=r"prior: its input tokenize/0+2 was removed meanwhile"):
        usage.verify_inputs(root, "prior", inputs)
