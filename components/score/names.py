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
    spatial: str
    kernel: str
    density: str
    coverage: str
    reconstructed: str

    @staticmethod
    def of(network: Mapping[str, Any]) -> Names:
        """From what the statistics' manifest says of its network."""
        name = str(network["kind"]).rsplit(":", 1)[-1]
        published = bool(network.get("published"))
        return Names(
            distance="fid" if published else f"fd_{name}",
            score="is" if published else f"is_{name}",
            precision=f"precision_{name}",
            recall=f"recall_{name}",
            spatial="sfid" if published else f"sfd_{name}",
            kernel="kid" if published else f"kd_{name}",
            density=f"density_{name}",
            coverage=f"coverage_{name}",
            reconstructed="rfid" if published else f"rfd_{name}",
        )
