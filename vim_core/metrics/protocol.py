"""What a figure was measured on and how: only figures of one protocol may share a column."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from vim_core.errors import DataError

SUBJECTS = ("tokenizer", "prior")
"""Networks that a figure is about, not judges: theirs may differ between figures that stand side by side."""

TOLD = ("sampling", "interval")
"""Fields that tell of a figure and do not part it from others: how samples were drawn, how sure it is."""


@dataclass(frozen=True)
class Protocol:
    """The circumstances of one figure; empty fields do not apply to it.

    `protocol` is the name of the rules where they are somebody else's (see `rules.py`), `network` and `network_digest`
    name the judge, `reference` and `reference_digest` what was compared against, `resize` the pixel size the network
    saw, `sampling` temperature, guidance and filters of generated images, `interval` what `<figure>_low` and
    `<figure>_high` are.
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
    """Names of the fields, in their order, in which two records say that their figures do not compare.

    Not counted: the fields in `TOLD`; the digest of a network in `SUBJECTS`, which is what the figure is about, and of
    the code table that it made; and where a reference of one content lies.
    """
    names = [*Protocol.__dataclass_fields__, *sorted({*one, *other} - {*Protocol.__dataclass_fields__})]
    return [name for name in names if name not in _passed_over(one, other) and one.get(name) != other.get(name)]


def same_protocol(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two figures with these records may stand in one column."""
    return not differences(one, other)


def compare(records: Mapping[str, Mapping[str, Any]], figure: str = "") -> None:
    """Refuse to put figures side by side unless all have one protocol.

    Args:
        records: the protocol record of each figure by the name people know it by, such as the run's.
        figure: what they are figures of, for the message.

    Raises:
        DataError: two differ; the message names both, the fields and their values.
    """
    names = list(records)
    for name in names[1:]:
        found = differences(records[names[0]], records[name])
        if found:
            told = "; ".join(_told(field, records[names[0]], records[name]) for field in found)
            raise DataError(
                f"{figure or records[name].get('figure', 'figures')} of {names[0]} and {name} do not compare, "
                f"their protocols differ in {', '.join(found)} ({told}): measure both in one way"
            )


def groups(records: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    """The names sorted into sets whose figures compare, in the order given: one column each."""
    found: list[list[str]] = []
    for name, record in records.items():
        home = next((group for group in found if same_protocol(records[group[0]], record)), None)
        if home is None:
            found.append([name])
        else:
            home.append(name)
    return found


def _passed_over(one: Mapping[str, Any], other: Mapping[str, Any]) -> Sequence[str]:
    passed = list(TOLD)
    if one.get("network") in SUBJECTS:
        passed.append("network_digest")
    if one.get("reference") == other.get("reference") == "code table":
        passed.append("reference_digest")
    if one.get("reference_digest") and one.get("reference_digest") == other.get("reference_digest"):
        passed.append("reference")
    return passed


def _told(name: str, one: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    return f"{name}: {_short(one.get(name))} and {_short(other.get(name))}"


def _short(value: Any, length: int = 60) -> str:
    text = "none" if value is None else str(value)
    return text if len(text) <= length else f"{text[:length]}…"
