"""The example overlay, rendered once for all tests of it."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support import kubernetes_objects


@pytest.fixture(scope="session")
def rendered() -> list[dict[str, Any]]:
    """The objects of infra/kubernetes/overlays/example."""
    return kubernetes_objects.render(kubernetes_objects.EXAMPLE)
