"""What figures are called by the network that they come from (contract 8)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Names:
    """Names of the figures of one feature network; FID and IS stand for the published Inception of 2015 alone."""

    distance: str
    score: str
    precision: str
    recall: str

    @staticmethod
    def of(network: Mapping[str, Any]) -> Names:
        """From what the statistics' manifest says of its network."""
        name = str(network["kind"]).rsplit(":", 1)[-1]
        if network.get("published"):
            return Names("fid", "is", f"precision_{name}", f"recall_{name}")
        return Names(f"fd_{name}", f"is_{name}", f"precision_{name}", f"recall_{name}")
