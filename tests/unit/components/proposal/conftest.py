"""Folders of generated pictures, made once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.pictures import folder_of_pictures

SETS = {
    "three": (["disc", "square", "triangle"], 60), "two": (["disc", "square"], 12), "one": (["disc"], 20),
    "unlabelled": ([""], 80), "split": (["Train/disc", "Train/square", "valid/disc", "valid/square"], 10),
}  # fmt: skip
"""Class folders and their images by set."""


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Gives a set's folder."""
    root = tmp_path_factory.mktemp("pictures")

    def folder(name: str) -> Path:
        if not (root / name).exists():
            folder_of_pictures(root / name, *SETS[name])
        return root / name

    return folder
