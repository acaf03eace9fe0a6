"""Protocol records: what a figure was measured on and how. Only figures of one protocol compare."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

SUBJECTS = ("tokenizer", "prior")
"""Networks that a figure is about; their digests may differ between figures that compare."""

DESCRIPTIVE = ("sampling", "interval")
"""Fields that may differ between figures that compare: how samples were drawn, and the confidence interval."""


@dataclass(frozen=True)
class Protocol:
    """The circumstances of one figure; empty fields do not apply to it.

    Attributes:
        figure, compares, split, count, unit: name of the figure, what it compares, on how many images of which split.
        resize: the pixel size that the network sees, in words.
        network, network_digest: the evaluator.
        reference, reference_count, reference_digest: the real images or statistics compared with.
        sampling: temperature, guidance and filters of generated images.
        protocol: name of the convention where it is not this project's own, see `conventions.py`.
        interval: what `<figure>_low` and `<figure>_high` are.
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
    protocol: str = ""
    interval: str = ""

    def record(self) -> dict[str, Any]:
        """As a JSON record, without the fields that do not apply."""
        return {key: value for key, value in asdict(self).items() if value not in ("", 0, {}) or key == "count"}


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Names of the fields in which the records of two figures differ; the figures compare where there are none.

    Ignored are the fields in `DESCRIPTIVE`; the digest of a network in `SUBJECTS`, and of the code table that it made;
    and the place of a reference whose content is the same.
    """
    ignored = [*DESCRIPTIVE]
    if one.get("network") in SUBJECTS:
        ignored.append("network_digest")
    if one.get("reference") == other.get("reference") == "code table":
        ignored.append("reference_digest")
    if one.get("reference_digest") and one.get("reference_digest") == other.get("reference_digest"):
        ignored.append("reference")
    names = [*Protocol.__dataclass_fields__, *sorted({*one, *other} - {*Protocol.__dataclass_fields__})]
    return [name for name in names if name not in ignored and one.get(name) != other.get(name)]
