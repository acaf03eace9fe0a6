"""Which points no other one beats, and which of these is called the best."""

from __future__ import annotations

from collections.abc import Sequence

Pair = tuple[float, float]


def front(pairs: Sequence[Pair], signs: tuple[int, int]) -> list[int]:
    """Indices of the points that no other one beats, in the order of the first axis.

    One point beats another that it equals or surpasses on both axes and surpasses on one. `signs` are 1 where more is
    better and -1 where less is.
    """
    better = [(signs[0] * x, signs[1] * y) for x, y in pairs]
    order = sorted(range(len(pairs)), key=lambda i: (-better[i][0], -better[i][1]))
    kept: list[int] = []
    highest: Pair | None = None
    for i in order:
        # From the best of the first axis on, only what reaches higher on the second is not beaten; equals stay.
        if highest is None or better[i][1] > highest[1] or better[i] == highest:
            kept.append(i)
            highest = better[i]
    return sorted(kept, key=lambda i: (pairs[i], i))


def nearest_to_ideal(pairs: Sequence[Pair], signs: tuple[int, int]) -> int:
    """The index of the point of the front that is nearest to the best of both axes.

    Each axis is scaled so that its worst and best point of the front are 0 and 1; of equals the first.
    """
    members = sorted(front(pairs, signs))
    spans = [_span([pairs[i][axis] for i in members]) for axis in range(2)]

    def away(i: int) -> float:
        missing = 0.0
        for axis, (low, high) in enumerate(spans):
            ideal = high if signs[axis] > 0 else low
            missing += ((pairs[i][axis] - ideal) / (high - low)) ** 2 if high > low else 0.0
        return missing

    return min(members, key=lambda i: (away(i), i))


def _span(values: Sequence[float]) -> Pair:
    return min(values), max(values)
