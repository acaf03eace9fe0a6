"""Runs beside each other: settings that differ, and figures only where their protocols are the same (contract 8)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from components.report import format
from components.report import results as figures
from components.report.grids import Picture
from components.report.results import BOUNDS, Figure
from vim_core.metrics.protocol import differences

SUBJECTS = ("tokenizer", "prior")
"""Networks that a figure is about; their digests differ between runs and do not part figures."""

OWN_CODES = ("code table", "labels of the code table")
"""References that a run made itself of the images: the images are what has to be the same."""

UNKNOWN = "not recorded"
QUIET = ("report",)
"""Components whose settings change no figure."""


@dataclass(frozen=True)
class Run:
    """One run: its name on the page, the content of its `results.json`, its pictures, and where it lies."""

    name: str
    record: Mapping[str, Any]
    place: str = ""
    samples: tuple[Picture, ...] = ()
    reconstructions: tuple[Picture, ...] = ()


@dataclass(frozen=True)
class Cell:
    """A figure of one run; `best` only where that is known to be so."""

    value: str = "–"
    interval: str = ""
    best: bool = False


@dataclass(frozen=True)
class Line:
    """A figure of one protocol, a cell per run, and what may be said of the best."""

    label: str
    key: str
    sentence: str
    cells: tuple[Cell, ...]
    verdict: str


@dataclass(frozen=True)
class Refusal:
    """A figure that two runs have by different protocols: which fields differ, and each run's value with its own."""

    label: str
    key: str
    runs: tuple[str, str]
    fields: tuple[tuple[str, str, str], ...]
    values: tuple[tuple[str, str, str], ...]


def compare(runs: Sequence[Run]) -> tuple[list[Line], list[Refusal]]:
    """Lines of figures that compare, and for the others the first pair of runs that does not."""
    lines: list[Line] = []
    refusals: list[Refusal] = []
    for figure in _all_figures(runs):
        having = [run for run in runs if figure.key in _protocols(run)]
        for group in _groups(having, figure):
            if len(group) > 1:
                lines.append(_line(figure, runs, group))
        refusals += _refusals(having, figure)
    return lines, refusals


def settings_that_differ(runs: Sequence[Run]) -> list[tuple[str, tuple[str, ...]]]:
    """Dotted settings whose values are not the same in all runs that recorded them.

    A component that some of the runs do not have is one line, not one for each of its settings.
    """
    known = [run.record.get("settings", {}) for run in runs]
    names = sorted({name for one in known for name in one} - set(QUIET))
    missing = {name for name in names if any(one and name not in one for one in known)}
    rows = [(name, tuple(_presence(one, name) for one in known)) for name in sorted(missing)]
    flat = [{key: _text(value) for key, value in _flat(one) if key.split(".")[0] not in missing} for one in known]
    for key in sorted({key for one in flat for key in one}):
        given = [one.get(key, "–") for one in flat if one]
        if len(set(given)) > 1:
            rows.append((key, tuple(one.get(key, "–") if one else UNKNOWN for one in flat)))
    return rows


def _presence(settings: Mapping[str, Any], name: str) -> str:
    return UNKNOWN if not settings else "present" if name in settings else "–"


def costs(runs: Sequence[Run]) -> list[tuple[str, tuple[str, ...]]]:
    """What each component took in each run, with its device, as far as recorded."""
    names = dict.fromkeys(name for run in runs for name in run.record.get("compute", {}))
    return [(name, tuple(_cost(run.record.get("compute", {}).get(name)) for run in runs)) for name in names]


def judged(record: Mapping[str, Any], protocol: Mapping[str, Any]) -> dict[str, Any]:
    """A protocol without what the figure is about: the digest of the run's own prior or tokenizer, or of its codes.

    In place of a code table of its own stand the images behind it.
    """
    kept = dict(protocol)
    if str(kept.get("network", "")).split(",")[0] in SUBJECTS:
        kept.pop("network_digest", None)
    if kept.get("reference") in OWN_CODES:
        kept["reference_digest"] = record.get("data", {}).get("digest", "")
    return kept


def _all_figures(runs: Sequence[Run]) -> list[Figure]:
    found: dict[str, Figure] = {}
    for run in runs:
        for figure in figures.known(run.record):
            found.setdefault(figure.key, figure)
    return list(found.values())


def _protocols(run: Run) -> Mapping[str, Any]:
    known: Mapping[str, Any] = run.record.get("protocols", {})
    return known


def _differences(one: Run, other: Run, key: str) -> list[str]:
    return differences(judged(one.record, _protocols(one)[key]), judged(other.record, _protocols(other)[key]))


def _groups(having: Sequence[Run], figure: Figure) -> list[list[Run]]:
    """Runs sorted into sets of one protocol."""
    groups: list[list[Run]] = []
    for run in having:
        home = next((group for group in groups if not _differences(group[0], run, figure.key)), None)
        if home is None:
            groups.append([run])
        else:
            home.append(run)
    return groups


def _refusals(having: Sequence[Run], figure: Figure) -> list[Refusal]:
    """One refusal per further protocol, against the first run."""
    firsts = [group[0] for group in _groups(having, figure)]
    out = []
    for other in firsts[1:]:
        one, fields = firsts[0], _differences(firsts[0], other, figure.key)
        sides = [judged(run.record, _protocols(run)[figure.key]) for run in (one, other)]
        told = tuple((name, _text(sides[0].get(name)), _text(sides[1].get(name))) for name in fields)
        values = tuple(
            (run.name, _value(run, figure).value, format.sentence(_protocols(run)[figure.key])) for run in having
        )
        out.append(Refusal(figure.label, figure.key, (one.name, other.name), told, values))
    return out


def _line(figure: Figure, runs: Sequence[Run], group: Sequence[Run]) -> Line:
    best, verdict = _verdict(figure, group)
    cells = tuple(_value(run, figure, run is best) if run in group else Cell() for run in runs)
    sentence = format.sentence({**_protocols(group[0])[figure.key], "sampling": {}})
    return Line(figure.label, figure.key, sentence, cells, verdict)


def _verdict(figure: Figure, group: Sequence[Run]) -> tuple[Run | None, str]:
    """The best run if its interval lies apart from all others, and what is to be said otherwise."""
    sign = figures.better(figure.key)
    if not sign:
        return None, ""
    ranked = sorted(group, key=lambda run: -sign * _number(run, figure))
    first, rest = ranked[0], ranked[1:]
    if _number(first, figure) == _number(rest[0], figure):
        return None, "equal"
    ends = [_interval(run, figure) for run in ranked]
    word = "highest" if sign > 0 else "lowest"
    if any(end is None for end in ends):
        return None, f"{first.name} {word}; without intervals"
    low, high = ends[0] or (0.0, 0.0)
    if all(end is not None and (end[1] < low if sign > 0 else end[0] > high) for end in ends[1:]):
        return first, f"{first.name} {word}"
    return None, f"{first.name} {word}; intervals overlap"


def _number(run: Run, figure: Figure) -> float:
    return float(run.record[figure.group][figure.name])


def _interval(run: Run, figure: Figure) -> tuple[float, float] | None:
    low, high = (run.record[figure.group].get(figure.name + end) for end in BOUNDS)
    return None if low is None or high is None else (float(low), float(high))


def _value(run: Run, figure: Figure, best: bool = False) -> Cell:
    shown = figures.shown(run.record[figure.group][figure.name], figure.style)
    return Cell(shown, figures.interval(figures.flat(run.record), figure), best)


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in settings.items():
        if not prefix and name in QUIET:
            continue
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _cost(entry: Mapping[str, Any] | None) -> str:
    if entry is None:
        return "–"
    device = f", {entry['device']}" if entry.get("device") else ""
    return f"{format.duration(float(entry['seconds']))}{device}"


def _text(value: Any, length: int = 80) -> str:
    text = "–" if value is None else str(value)
    return text if len(text) <= length else f"{text[:length]}…"
