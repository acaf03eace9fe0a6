"""Verifying that inputs still exist: those of this root count, those from elsewhere do not."""

from __future__ import annotations

import pytest

from components.artifacts import store, usage
from tests.support.archived import make
from vim_core.errors import DataError
from vim_core.storage import io


def test_a_removed_input_of_this_root_is_named(root: str) -> None:
    elsewhere, codes = make(f"{root}/other", "ingest", 1), make(root, "tokenize", 2)
    inputs = {"images": elsewhere, "codes": codes}
    usage.verify_inputs(root, "prior", inputs)
    io.remove_tree(io.join(elsewhere.folder, store.MANIFEST))
    usage.verify_inputs(root, "prior", inputs)
    io.remove_tree(io.join(codes.folder, store.MANIFEST))
    with pytest.raises(DataError, match=r"prior: its input tokenize/0+2 was removed meanwhile"):
        usage.verify_inputs(root, "prior", inputs)
