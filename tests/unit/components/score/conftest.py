"""Artifacts that tests of `score` read, written once a module."""

from __future__ import annotations

import pytest

from components.contract.api import Artifact
from tests.support.synthetic import everything


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    return everything(tmp_path_factory.mktemp("artifacts"))


@pytest.fixture
def made(written: dict[str, Artifact]) -> dict[str, Artifact]:
    """One artifact of every component; the table is the test's own."""
    return dict(written)
