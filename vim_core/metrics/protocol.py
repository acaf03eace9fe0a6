"""What a figure was measured on and how: only figures of one protocol may share a column."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Protocol:
    """The circumstances of one figure; empty fields do not apply to it.

    `network` and `network_digest` name the judge, `reference` and `reference_digest` what was compared against,
    `resize` the pixel size the network saw, `sampling` temperature, guidance and filters of generated images.
    """

    figure: str
    compares: str
    split: str
    count: int
    unit: str = ""
    resize: str = ""
    network: str = ""
    network_digest: str = ""
    reference: str = ""
    reference_count: int = 0
    reference_digest: str = ""
    sampling: dict[str, Any] = field(default_factory=dict)
    notes: str = ""

    def record(self) -> dict[str, Any]:
        """As a JSON record, without the fields that do not apply."""
        return {key: value for key, value in asdict(self).items() if value not in ("", 0, {}) or key == "count"}
