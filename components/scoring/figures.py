"""Figures on their way into the manifest, each with its protocol."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class Figures:
    """Figures and the protocol of each, by name."""

    metrics: dict[str, float] = field(default_factory=dict)
    protocols: dict[str, Any] = field(default_factory=dict)

    def add(self, values: dict[str, float], records: dict[str, Any]) -> None:
        """Take over figures with their protocols."""
        self.metrics |= values
        self.protocols |= records
