"""The figures of a run of `score`, each with its protocol and, where there is one, its confidence interval."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Interval = tuple[float, float] | None

BOOTSTRAP = "95 %: percentiles of 1,000 means of as many images drawn anew"
WILSON = "95 %: Wilson's interval of a share of images"
JACKKNIFE = "95 %: jackknife over {groups} groups of images left out in turn, Student's distribution; {fixed}"
PARTS = "95 %: Student's distribution over {parts}"


@dataclass
class Figures:
    """Figures and the protocol of each, by name; `<name>_low` and `<name>_high` have the protocol of `<name>`."""

    metrics: dict[str, float] = field(default_factory=dict)
    protocols: dict[str, Any] = field(default_factory=dict)

    def put(
        self,
        name: str,
        value: float,
        record: Mapping[str, Any],
        interval: Interval = None,
        method: str = "",
    ) -> None:
        """Add one figure and its interval; `method` describes the interval in the record."""
        self.metrics[name] = value
        self.protocols[name] = dict(record)
        if interval is not None:
            self.metrics[f"{name}_low"], self.metrics[f"{name}_high"] = interval
            self.protocols[name]["interval"] = method
