"""Data that many tests of the tasks train on; nobody writes there."""

from __future__ import annotations

import pytest

from tests.support.tiny import Make, code_data, image_data, tasks_on
from vim_core.tasks.prior import PriorData
from vim_core.tasks.quantizer import QuantizerData


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> QuantizerData:
    """Thirteen training images, three held out."""
    return image_data(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="session")
def codes(tmp_path_factory: pytest.TempPathFactory) -> PriorData:
    """Thirteen rows of four codes."""
    return code_data(tmp_path_factory.mktemp("codes"))


@pytest.fixture(scope="session")
def makers(images: QuantizerData, codes: PriorData) -> dict[str, Make]:
    """Each task from fields of its settings."""
    return tasks_on(images, codes)
