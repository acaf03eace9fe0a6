"""The training images on which the linear probe selects among its heads."""

from __future__ import annotations

from vim_core.config import ProbeConfig
from vim_core.data.image_tables import stable_hash


def is_validation(key: str, config: ProbeConfig) -> bool:
    """True for training images that select among heads; by the key, so all views of an image go together."""
    return stable_hash("probe", str(config.seed), key) % 10_000 < config.validation_share * 10_000
