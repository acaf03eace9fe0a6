"""Comparison of runs: settings that differ, and metrics whose protocols are the same (contract 8)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from components.report import metrics
from components.report.grids import Picture
from components.report.metrics import Metric
from vim_core.metrics.protocol import SUBJECTS, differences
from vim_core.text import duration, flatten

OWN_CODES = ("code table", "labels of the code table")
"""References that a run computed from its images: only the images have to be the same."""

UNKNOWN = "not recorded"
NAMED_SETTINGS = 2
"""Most settings in the name of a run."""
IGNORED = "report"
"""A component whose settings change no metric."""

T = TypeVar("T")


@dataclass(frozen=True)
class Run:
    """One run: its name on the page, the content of its `results.json`, the report's folder, and its pictures."""

    name: str
    record: Mapping[str, Any]
    folder: str = ""
    samples: tuple[Picture, ...] = ()
    reconstructions: tuple[Picture, ...] = ()

    @property
    def protocols(self) -> Mapping[str, Any]:
        """Protocols by the dotted names of metrics."""
        return dict(self.record.get("protocols", {}))

    def comparable(self, metric: Metric) -> dict[str, Any]:
        """The metric's protocol as `comparable_protocol` returns it."""
        return comparable_protocol(self.record, self.protocols[metric.key])


@dataclass(frozen=True)
class Cell:
    """A metric of one run; `best` only if its interval shows it."""

    value: str = "–"
    interval: str = ""
    best: bool = False


@dataclass(frozen=True)
class Line:
    """A metric, a cell per run, and a verdict on the best; the reason where the protocols differ (`comparable`)."""

    label: str
    key: str
    sentence: str
    cells: tuple[Cell, ...]
    verdict: str
    comparable: bool = True


@dataclass(frozen=True)
class Refusal:
    """A metric that two runs have by different protocols.

    `fields` are (name, one value, other value) of the protocols, `values` (run, value, protocol in words).
    """

    label: str
    key: str
    runs: tuple[str, str]
    fields: tuple[tuple[str, str, str], ...]
    values: tuple[tuple[str, str, str], ...]


def compare(runs: Sequence[Run]) -> tuple[list[Line], list[Refusal]]:
    """Lines of metrics, and for every further protocol of a metric its difference to the first one.

    Figures of a protocol that no other run shares stand in lines of their own, with the reason as their verdict.
    """
    lines: list[Line] = []
    refusals: list[Refusal] = []
    every: dict[str, Metric] = {}
    for run in runs:
        for metric in metrics.present(run.record):
            every.setdefault(metric.key, metric)
    for metric in every.values():
        measured = [run for run in runs if metric.key in run.protocols]
        groups = comparable_groups((run, [run.comparable(metric)]) for run in measured)
        for group in groups:
            if len(group) > 1:
                best, verdict = _verdict(metric, group)
                cells = [Cell(*metrics.formatted(r.record, metric), r is best) if r in group else Cell() for r in runs]
                # Sampling may differ within a line; it is listed among the settings.
                sentence = metrics.sentence({**group[0].protocols[metric.key], "sampling": {}})
                lines.append(Line(metric.label, metric.key, sentence, tuple(cells), verdict))
        refused = [_refusal(metric, measured, group[0]) for group in groups[1:]]
        refusals += refused
        if refused:
            alone = [run for group in groups if len(group) == 1 for run in group]
            cells = [Cell(*metrics.formatted(run.record, metric)) if run in alone else Cell() for run in runs]
            names = dict.fromkeys(name.replace("_", " ") for refusal in refused for name, _, _ in refusal.fields)
            reason = f"not comparable: other {', '.join(names)}"
            if alone:
                lines.append(Line(metric.label, metric.key, "", tuple(cells), reason, comparable=False))
    return lines, refusals


def names(runs: Sequence[Run]) -> list[str]:
    """A name for each run, no two alike: its own, for runs of one name with the settings in which those differ."""
    named = []
    for run in runs:
        alike = [other for other in runs if other.name == run.name]
        differing = settings_that_differ(alike) if len(alike) > 1 else []
        own = [f"{key}={values[alike.index(run)]}" for key, values in differing[:NAMED_SETTINGS]]
        named.append(" · ".join([run.name, ", ".join(own)]) if own else run.name)
    return [f"{name} ({named[: i + 1].count(name)})" if named.count(name) > 1 else name for i, name in enumerate(named)]


def settings_that_differ(runs: Sequence[Run]) -> list[tuple[str, tuple[str, ...]]]:
    """Dotted settings whose values are not the same in all runs that recorded them, each with a value per run.

    A component that some of the runs do not have is one line, not one for each of its settings.
    """
    recorded = [
        {name: value for name, value in run.record.get("settings", {}).items() if name != IGNORED} for run in runs
    ]
    names = {name for settings in recorded for name in settings}
    missing = {name for name in names if any(settings and name not in settings for settings in recorded)}
    flat = []
    for settings in recorded:
        shown = {name: "present" if name in missing else value for name, value in settings.items()}
        flat.append({key: _short(value) for key, value in flatten(shown).items()})
    rows = []
    for key in sorted({key for settings in flat for key in settings}, key=lambda key: (key not in missing, key)):
        values = tuple(settings.get(key, "–") if settings else UNKNOWN for settings in flat)
        if len({*values} - {UNKNOWN}) > 1:
            rows.append((key, values))
    return rows


def costs(runs: Sequence[Run]) -> list[tuple[str, tuple[str, ...]]]:
    """The time and device of each component in each run, as far as recorded."""

    def cost(entry: Mapping[str, Any] | None) -> str:
        if entry is None:
            return "–"
        device = f", {entry['device']}" if entry.get("device") else ""
        return f"{duration(float(entry['seconds']))}{device}"

    names = dict.fromkeys(name for run in runs for name in run.record.get("compute", {}))
    return [(name, tuple(cost(run.record.get("compute", {}).get(name)) for run in runs)) for name in names]


def comparable_protocol(record: Mapping[str, Any], protocol: Mapping[str, Any]) -> dict[str, Any]:
    """Return a protocol without the digests of the run's own prior, tokenizer or codes, which the metric evaluates.

    A code table that the run made itself is replaced by the images behind it.
    """
    comparable = dict(protocol)
    if str(protocol.get("network", "")).split(",")[0] in SUBJECTS:
        comparable.pop("network_digest", None)
    if protocol.get("reference") in OWN_CODES:
        comparable["reference_digest"] = record.get("data", {}).get("digest", "")
    return comparable


def comparable_groups(items: Iterable[tuple[T, Sequence[Mapping[str, Any]]]]) -> list[list[T]]:
    """Items, given with their protocols, in lists whose protocols are equal, in the order of their first ones."""
    groups: list[tuple[Sequence[Mapping[str, Any]], list[T]]] = []
    for item, protocols in items:
        for known, group in groups:
            if not any(map(differences, known, protocols)):
                group.append(item)
                break
        else:
            groups.append((protocols, [item]))
    return [group for _, group in groups]


def _refusal(metric: Metric, measured: Sequence[Run], other: Run) -> Refusal:
    """The refusal of a run whose protocol is not that of the first run that has the metric."""
    first = measured[0]
    one, two = first.comparable(metric), other.comparable(metric)
    fields = [(name, _short(one.get(name)), _short(two.get(name))) for name in differences(one, two)]
    values = [
        (run.name, metrics.formatted(run.record, metric)[0], metrics.sentence(run.protocols[metric.key]))
        for run in measured
    ]
    return Refusal(metric.label, metric.key, (first.name, other.name), tuple(fields), tuple(values))


def _verdict(metric: Metric, group: Sequence[Run]) -> tuple[Run | None, str]:
    """The best run if its interval lies apart from all others, and a verdict in words."""
    sign = metrics.direction(metric.key)
    if not sign:
        return None, ""
    measured = [(run, *metrics.measured(run.record, metric)) for run in group]
    (best, value, first), *others = sorted(measured, key=lambda entry: -sign * entry[1])
    if value == others[0][1]:
        return None, "equal"
    verdict = f"{best.name} {'highest' if sign > 0 else 'lowest'}"
    if not all((first, *(ends for _, _, ends in others))):
        return None, f"{verdict}; without intervals"
    if all(ends[1] < first[0] if sign > 0 else ends[0] > first[1] for _, _, ends in others):
        return best, verdict
    return None, f"{verdict}; intervals overlap"


def _short(value: Any, length: int = 80) -> str:
    text = "–" if value is None else str(value)
    return text if len(text) <= length else f"{text[:length]}…"
