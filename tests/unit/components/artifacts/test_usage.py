"""Looking whether inputs are still there: those of this root count, those from elsewhere do not."""

from __future__ import annotations

from pathlib import Path

import pytest

from components.artifacts import store, usage
from components.contract.api import Artifact
from tests.support.synthetic import artifact, with_fields
from vim_core.errors import DataError
from vim_core.storage import io


def kept(root: Path, component: str) -> Artifact:
    """An artifact committed to the root."""
    made = with_fields(artifact(root / "made", component, {}), fingerprint=component.ljust(20, "0"))
    io.make_folder(store.folder(str(root), component, made.manifest.fingerprint))
    return store.commit(str(root), made.manifest)[0]


def test_a_removed_input_is_told_whatever_lies_elsewhere(tmp_path: Path) -> None:
    elsewhere, codes = kept(tmp_path / "other", "ingest"), kept(tmp_path / "root", "tokenize")
    inputs = {"images": elsewhere, "codes": codes}
    root = str(tmp_path / "root")
    usage.verify_inputs(root, "prior", inputs)
    io.remove_tree(io.join(elsewhere.folder, store.MANIFEST))
    usage.verify_inputs(root, "prior", inputs)
    io.remove_tree(io.join(codes.folder, store.MANIFEST))
    with pytest.raises(DataError, match=r"prior: its input tokenize/tokenize0+ was removed meanwhile"):
        usage.verify_inputs(root, "prior", inputs)
